"""What is written where a thought is ended: its closing, and the answer or what elicits it. Pure."""

from __future__ import annotations

from typing import Any

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.markers import ThinkMarkers, write_closing
from hf_dynasor.stopping.texts import EXIT_CLOSINGS, EXIT_PROMPT, PASTED_ANSWER


def resolve_closing(closing: str) -> str:
    """The text of a closing, by its name in `EXIT_CLOSINGS` or as it is.

    Raises:
        ConfigurationError: A text without a place for the model's end of thinking.
    """
    text = EXIT_CLOSINGS.get(closing, closing)
    if "{close}" not in text:
        raise ConfigurationError(
            f"Got closing = {closing!r} but expected one of {', '.join(sorted(EXIT_CLOSINGS))}, or a text with "
            "{close} where the model's end of thinking belongs."
        )
    return text


def write_exit(
    tokenizer: Any, markers: ThinkMarkers | None, tail: str, closing: str, *, answer: str | None = None
) -> tuple[int, ...]:
    """The ids of an exit; a closing that opens a box is filled or left open, any other gets a box of its own.

    Args:
        tokenizer: The model's tokenizer.
        markers: Its think markers, or `None`.
        tail: The text before.
        closing: What closes the thought, with `{close}` for the marker.
        answer: What is pasted; `None` leaves the answer to the model.
    """
    ids = write_closing(tokenizer, markers, tail, closing)
    is_open = closing.endswith("{")
    if answer is not None:
        rest = f"{answer}}}" if is_open else PASTED_ANSWER.replace("{answer}", answer).lstrip("\n")
    else:
        # Without a marker nothing tells the model that its thought is over, so it is asked.
        rest = EXIT_PROMPT if markers is None and not is_open else ""
    return (
        (*ids, *(int(token_id) for token_id in tokenizer.encode(rest, add_special_tokens=False)))
        if rest
        else ids
    )
