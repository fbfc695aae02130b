"""The nodes of a tree of partial solutions, and the places where it grows."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_dynasor.core import FinishReason, Prompt
from hf_dynasor.programs.pieces import Piece


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One step of a tree. Its reward and its end are set once, before anything else reads them.

    Args:
        name: The request that it came from, and its place in it where that was cut into steps.
        parent: The step before it; `None` for the root, which holds the prompt alone.
        unit: Which unit of the knob it was spent on.
        piece: What was generated.
        finish_reason: How it ended.
        prompt: What a next step continues; by default the parent's and this piece.
        num_tokens: Net tokens of this step alone, its rating included.
        is_terminal: Whether the path ends here.
        answer: The answer that the path states, where it ends here.
        reward: The path's reward up to here.

    Attributes:
        num_path_tokens: Tokens generated from the root to its end.
    """

    name: str
    parent: Node | None
    piece: Piece
    finish_reason: FinishReason
    unit: int = 0
    prompt: Prompt = field(default=Prompt(("",)))
    num_tokens: int = 0
    is_terminal: bool = False
    answer: str | None = None
    reward: float | None = None
    num_path_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.parent is not None:
            self.prompt = self.parent.prompt + self.piece.segment
            self.num_path_tokens = self.parent.num_path_tokens + max(
                len(self.piece.token_ids), self.num_tokens
            )

    def list_path(self) -> list[Node]:
        """The steps from the first one to this; the root is left out."""
        path: list[Node] = []
        node = self
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    def join_texts(self) -> str:
        """The text of the whole path."""
        return "".join(node.piece.text for node in self.list_path())

    def make_score_prompt(self, prompt: Prompt) -> Prompt:
        """What a reward model reads: texts (its vocabulary may be another), the step to be rated last."""
        texts = (node.piece.text for node in self.list_path())
        return Prompt((*prompt.segments, *(text for text in texts if text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one request grows the tree.

    Args:
        parent: The node that it continues.
        unit: Which unit of the knob it is spent on.
        is_whole: Whether it runs to the end of the path, and is cut into steps, in place of one step.
        is_greedy: Whether it takes the likeliest token each time.
    """

    parent: Node
    unit: int
    is_whole: bool = False
    is_greedy: bool = False
