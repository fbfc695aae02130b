"""What tree programs share: growing steps, rating them, and reading finished paths (leaves).

A tree grows in waves: all requests of a wave are sent together, and nothing is decided before the last of them has
ended, so the order in which an engine finishes them changes nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TypeAlias

from hf_dynasor.answers import (
    AnswerFormat,
    AnswerGroup,
    AnswerGroups,
    check_format,
    find_answer,
    group_answers,
)
from hf_dynasor.certaindex import Certaindex, agreement, max_signal, normalised_entropy
from hf_dynasor.core import (
    Command,
    Completion,
    FinishReason,
    Generate,
    Prompt,
    Request,
    RequestKey,
    SamplingParams,
    Score,
)
from hf_dynasor.errors import ProgramError
from hf_dynasor.grants import Knob
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import Flow, ReasoningProgram, derive_seed
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.pieces import Piece, read_piece
from hf_dynasor.programs.step_rewards import StepReward, choose_reward
from hf_dynasor.programs.tree_options import STEP_DELIMITER, TREE_SAMPLING, check_sampling

Wave: TypeAlias = Generator[tuple[Command, ...], Completion, list[tuple[Node, ...]]]
"""What `grow` is: it returns, for each place, the nodes that grew there."""


class TreeProgram(ReasoningProgram):
    """A program that grows paths step by step and rates them on the way.

    Args:
        prompt: What every path continues.
        budget: The knob's maximum.
        sampling: How each step is decoded. `max_new_tokens` is the budget of a whole path, every step of it counted;
            `seed` seeds the program, and each request gets its own from it.
        reward: How steps are rated: a `StepReward`, or a name of `REWARDS`.
        delimiter: Text that ends a step.
        greedy_first: Whether the first unit is a whole path decoded at temperature 0, so that the likeliest chain is
            always among those that are compared.
        answer_format: How answers are found and told apart.
        label: What people call it.

    Attributes:
        unit: The knob's unit (of the class).
    """

    unit: str
    signals = frozenset({"entropy", "agreement", "reward"})

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int = 16,
        sampling: SamplingParams = TREE_SAMPLING,
        reward: StepReward | str = "likelihood",
        delimiter: str = STEP_DELIMITER,
        greedy_first: bool = False,
        answer_format: AnswerFormat = "auto",
        label: str = "question",
    ) -> None:
        super().__init__(label=label, knob=Knob(unit=self.unit, maximum=budget))
        check_sampling(sampling, delimiter, budget)
        check_format(answer_format)
        self.prompt = prompt
        self.sampling = sampling
        self.reward = choose_reward(reward)
        self.delimiter = delimiter
        self.greedy_first = greedy_first
        self.answer_format = answer_format
        self.nodes: list[Node] = []
        self.root = Node(
            name="root", parent=None, piece=Piece(text=""), prompt=prompt, finish_reason=FinishReason.STOP
        )
        self._num_sent: Counter[int] = Counter()
        self._num_units = 0
        self._num_lost = 0
        self._errors: list[str] = []
        self._groups: AnswerGroups = group_answers([])

    @property
    def leaves(self) -> list[Node]:
        """The finished paths, in the order of the knob's units."""
        return sorted((node for node in self.nodes if node.is_terminal), key=lambda leaf: leaf.unit)

    @abstractmethod
    def rate_group(self, rewards: Sequence[float]) -> float:
        """How much the finished paths of one answer weigh together."""

    def combine_rewards(self, rewards: Sequence[float]) -> float | None:
        """The certaindex signal from the finished paths' rewards; their largest, unless a program says otherwise."""
        return max_signal(rewards)

    def update_certaindex(self) -> None:
        """Group the answers of finished paths; one that states none, or was lost, stands alone."""
        leaves = self.leaves
        self._groups = group_answers([leaf.answer for leaf in leaves], format=self.answer_format)
        sizes = (*self._groups.sizes, *(1 for _ in range(self._num_lost)))
        self.certaindex = Certaindex(
            entropy=normalised_entropy(sizes),
            agreement=agreement(sizes) if self._groups.groups else None,
            reward=self.combine_rewards([leaf.reward for leaf in leaves if leaf.reward is not None]),
            num_paths=len(leaves),
        )

    def select_answer(self) -> str | None:
        """The answer whose finished paths weigh most."""
        if not self.nodes:
            errors = "; ".join(self._errors[:3]) or "nothing was granted"
            raise ProgramError(f"No step of {self.label!r} was finished: {errors}.")
        votes = self.list_votes()
        return votes[0][0] if votes else None

    def list_votes(self) -> tuple[tuple[str, float], ...]:
        """Answers with their weights; of equal weights the larger group, then the text that sorts first."""
        leaves = self.leaves
        rated = [
            (group, self.rate_group([leaves[index].reward or 0.0 for index in group.indices]))
            for group in self._groups.groups
        ]
        return tuple((group.representative, weight) for group, weight in sorted(rated, key=_order_votes))

    def list_groups(self) -> tuple[int, ...]:
        """The group of each finished path."""
        return self._groups.list_memberships()

    def list_paths(self) -> tuple[PathRecord, ...]:
        """Every step, in the order of the knob's units and of growth."""
        return tuple(_make_record(node) for node in sorted(self.nodes, key=lambda node: node.unit))

    def take_units(self, grant: int) -> list[int]:
        """The numbers of the units that a grant holds."""
        units = list(range(self._num_units, self._num_units + grant))
        self._num_units += grant
        return units

    def is_greedy(self, unit: int) -> bool:
        """Whether a unit is spent on the one path that is decoded greedily."""
        return self.greedy_first and unit == 0

    def note_lost(self, units: Sequence[int]) -> None:
        """Count the units of a grant that ended without a finished path: each stands alone in the certaindex."""
        self._num_lost += len(set(units) - {leaf.unit for leaf in self.leaves})

    def grow(self, places: Sequence[Place]) -> Wave:
        """Send one request for each place, wait for all of them, and rate what grew.

        Returns:
            For each place its new nodes, one step after another; none where the request failed.
        """
        requests = [self._make_request(place) for place in places]
        completions = yield from gather(requests)
        sprouts = [self._read(place, item) for place, item in zip(places, completions, strict=True)]
        new = [node for nodes in sprouts for node in nodes]
        yield from self._rate(new)
        self.nodes += new
        return sprouts

    def _make_request(self, place: Place) -> Generate:
        # By its unit and its place in it, so that what other units send changes neither its name nor its draws.
        count = self._num_sent[place.unit]
        self._num_sent[place.unit] += 1
        where = (place.unit, count) if count else (place.unit,)
        sampling = replace(
            self.sampling,
            max_new_tokens=self.sampling.max_new_tokens - place.parent.num_path_tokens,
            temperature=0.0 if place.is_greedy else self.sampling.temperature,
            stop=() if place.is_whole else (self.delimiter,),
            seed=derive_seed(self.sampling.seed, "step", *where),
            logprobs=self.sampling.logprobs or self.reward.is_free,
        )
        name = "-".join(("step", *map(str, where)))
        return Generate(key=self.key(name), prompt=place.parent.prompt, sampling=sampling)

    def _read(self, place: Place, completion: Completion) -> tuple[Node, ...]:
        """The nodes of a completion; their rewards are not known yet."""
        if completion.finish_reason is FinishReason.FAILED:
            self._errors.append(completion.error or "unknown error")
            return ()
        piece = read_piece(completion, self.delimiter)
        nodes: list[Node] = []
        pieces = piece.cut(self.delimiter) if place.is_whole else (piece,)
        for index, part in enumerate(pieces):
            is_last = index + 1 == len(pieces)
            nodes.append(
                Node(
                    name=completion.key.request_id + (f".{index}" if index else ""),
                    parent=nodes[-1] if nodes else place.parent,
                    unit=place.unit,
                    piece=part,
                    finish_reason=completion.finish_reason if is_last else FinishReason.STOP,
                    num_tokens=len(part.token_ids) if len(pieces) > 1 else completion.usage.net_tokens,
                )
            )
        self._finish(nodes[-1])
        return tuple(nodes)

    def _finish(self, node: Node) -> None:
        """Mark a node where its path ends, and read the path's answer."""
        reason = node.finish_reason
        has_room = node.num_path_tokens < self.sampling.max_new_tokens
        if reason in (FinishReason.STOP, FinishReason.LENGTH) and has_room:
            return
        is_truncated = reason is not FinishReason.EOS
        found = find_answer(node.join_texts(), format=self.answer_format, is_truncated=is_truncated)
        node.is_terminal = True
        node.answer = found.text if found else None

    def _rate(self, nodes: Sequence[Node]) -> Flow:
        """Set the rewards of new nodes, parents before children."""
        scored = [node for node in nodes if not self.reward.is_free and node.piece.text]
        requests = [
            Score(key=self.key(f"score-{node.name}"), prompt=node.make_score_prompt(self.prompt))
            for node in scored
        ]
        completions = yield from gather(requests)
        scores = {node.name: item for node, item in zip(scored, completions, strict=True)}
        for node in nodes:
            completion = scores.get(node.name)
            step = self.reward.read_score(completion) if completion else self.reward.read_piece(node.piece)
            node.num_tokens += completion.usage.net_tokens if completion else 0
            node.reward = _round(self.reward.join(node.parent.reward if node.parent else None, step))


def _round(reward: float | None) -> float | None:
    """To four digits: what stands beside a row in a batch changes its last bits, and no tie may hang on those."""
    return None if reward is None else float(f"{reward:.4g}")


def gather(requests: Sequence[Request]) -> Generator[tuple[Command, ...], Completion, list[Completion]]:
    """Send requests together and wait for all; returns their completions in the order of the requests."""
    commands: tuple[Command, ...] = tuple(requests)
    found: dict[RequestKey, Completion] = {}
    while len(found) < len(requests):
        completion = yield commands
        commands = ()
        found[completion.key] = completion
    return [found[request.key] for request in requests]


def _order_votes(vote: tuple[AnswerGroup, float]) -> tuple[float, int, str]:
    group, weight = vote
    return -weight, -group.size, group.representative


def _make_record(node: Node) -> PathRecord:
    return PathRecord(
        request_id=node.name,
        parent=node.parent.name if node.parent and node.parent.parent else None,
        unit=node.unit,
        text=node.piece.text,
        answer=node.answer,
        reward=node.reward,
        num_tokens=node.num_tokens,
        finish_reason=node.finish_reason,
        is_terminal=node.is_terminal,
    )
