"""What elicits an answer in the middle of a thought, named once, and where that answer ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PROBE_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        "paper": "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{",
        "short": "\n\nSo the answer is \\boxed{",
        "final_answer": "\n\n**Final Answer**\n\n\\boxed{",
        "closed": "\n{close}\n\nThe answer is \\boxed{",
    }
)
"""What elicits an answer (paper §6). `{close}` stands for the model's own end of thinking."""

EXIT_CLOSINGS: Mapping[str, str] = MappingProxyType(
    {
        "plain": "\n{close}\n\n",
        "boxed": "\n{close}\n\nThe answer is \\boxed{",
        "limited_time": "\n\nConsidering the limited time by the user, I have to give the solution based on the "
        "thinking directly now.\n{close}\n\n",
    }
)
"""What closes a thought. "boxed" leaves only the answer itself to the model; "limited_time" is the sentence that Qwen3
was trained to be stopped with."""

GUIDED_PROMPT = "\n\n**Final Answer**\n\n\\boxed{"
"""What QwQ-guided generation forces into the stream after each chunk (paper §6)."""

EXIT_PROMPT = "**Final Answer**\n\n\\boxed{"
"""What follows a stop in a model without think markers: it then writes its answer."""

PASTED_ANSWER = "\n\n**Final Answer**\n\n\\boxed{{answer}}"
"""How a probe's answer is pasted where the model does not write its own; `{answer}` stands for it."""


def find_answer_end(text: str) -> int | None:
    r"""Where an answer that began inside an opened brace ends: its unpaired closing brace, or a newline.

    Args:
        text: What was written after the opening brace.

    Returns:
        The index of that brace or newline; `None` while the answer goes on. A newline before the answer's first
        sign does not end it.

    Examples:
        >>> find_answer_end(r"\frac{1}{2}} and"), find_answer_end("12"), find_answer_end("12\n")
        (11, None, 2)
    """
    depth = 0
    for index, sign in enumerate(text):
        if sign == "{" and not _is_escaped(text, index):
            depth += 1
        elif sign == "}" and not _is_escaped(text, index):
            if depth == 0:
                return index
            depth -= 1
        elif sign == "\n" and text[:index].strip():
            return index
    return None


def is_closed_answer(text: str) -> bool:
    """Whether an answer ended by its brace."""
    end = find_answer_end(text)
    return end is not None and text[end] == "}"


def _is_escaped(text: str, index: int) -> bool:
    before = text[:index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
