"""What `hf-dynasor chat` shows: a path while it grows, a bar of certaindex, what was saved. Writes text, reads nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from hf_dynasor.serving.http.reasoning import ReasoningSplitter, Split

BAR_WIDTH = 20
SIGNALS = ("entropy", "reward", "agreement", "answer_probability")
_DIM, _BOLD, _GREEN, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[32m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Shows one conversation.

    Args:
        out: Where it is written. Colours and lines that change need a terminal there, and no `NO_COLOR` in the
            environment (https://no-color.org).
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self._splitter: ReasoningSplitter | None = None
        self._shown: str | None = None  # the path whose text is shown
        self._is_path_over = False
        self._text = ""
        self._num_tokens = 0
        self._has_status = self._is_mid_line = self._has_thought = False

    def greet(self, label: str) -> None:
        """The first line."""
        self.note(f"{label}. Ctrl-C ends an answer, Ctrl-D ends; /new forgets the conversation.")

    def show_question(self, question: str) -> None:
        """A question that came through a pipe."""
        self._write(f"> {question}\n")

    def note(self, text: str) -> None:
        """A line that is no answer."""
        self.end_line()
        self._write(self._paint(_DIM, text) + "\n")

    def begin(self, splitter: ReasoningSplitter) -> None:
        """A question was asked."""
        self._splitter, self._shown, self._is_path_over, self._num_tokens = splitter, None, False, 0
        self._has_thought, self._text = False, ""

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Something happened; see `Asker.ask`."""
        show = {
            "progress": self._show_progress,
            "completion": self._show_completion,
            "grant": self._show_grant,
            "completed": self._show_end,
        }.get(kind)
        if show is not None:
            show(data)

    def end_line(self) -> None:
        """Go to the beginning of an empty line."""
        self._clear_status()
        if self._is_mid_line:
            self._write("\n")

    def _show_progress(self, data: dict[str, Any]) -> None:
        for path in data["paths"]:
            self._num_tokens += path["num_tokens"]
            if self._shown is None:
                self._shown = path["request_id"]
            if path["request_id"] == self._shown and not self._is_path_over and self._splitter is not None:
                self._text += path["text"]
                self._show_split(self._splitter.push(path["text"]))
        if self._is_path_over:
            self._show_status(f"{self._num_tokens} tokens so far ...")

    def _show_completion(self, data: dict[str, Any]) -> None:
        if self._shown is None and data["finish_reason"] != "cancelled":
            self._shown = data["request_id"]  # over before anything was told of it
        if data["request_id"] == self._shown and not self._is_path_over and self._splitter is not None:
            if data["text"].startswith(self._text):  # what it grew by since it was last told of
                self._show_split(self._splitter.push(data["text"][len(self._text) :]))
            self._show_split(self._splitter.finish())
            self._is_path_over = True
            self.end_line()

    def _show_split(self, split: Split) -> None:
        if split.reasoning:
            self._has_thought = True
            self._show_text(self._paint(_DIM, split.reasoning), split.reasoning)
        if split.content:
            if self._has_thought:
                self._has_thought = False
                self.end_line()
            self._show_text(split.content, split.content)

    def _show_text(self, painted: str, plain: str) -> None:
        self._clear_status()
        self._write(painted)
        self._is_mid_line = not plain.endswith("\n")

    def _show_grant(self, data: dict[str, Any]) -> None:
        self.end_line()
        signal = next((name for name in SIGNALS if name in data["certaindex"]), None)
        value = data["certaindex"][signal] if signal else 0.0
        words = f"{value:.2f} ({signal})" if signal else "not known yet"
        filled = round(BAR_WIDTH * min(1.0, max(0.0, value)))
        bar = self._paint(_GREEN, "█" * filled) + "░" * (BAR_WIDTH - filled)
        self._write(f"certaindex {bar} {words} · {data['total']} units · {data['net_tokens']:,} tokens\n")

    def _show_end(self, data: dict[str, Any]) -> None:
        self.end_line()
        answer = data["answer"] if data["answer"] is not None else "none found"
        self._write(f"{self._paint(_BOLD, f'answer: {answer}')}\n")
        self._write(f"{self._paint(_DIM, _describe_end(data))}\n")

    def _show_status(self, text: str) -> None:
        if self._is_terminal and not self._is_mid_line:
            self._write(f"{_CLEAR_LINE}{self._paint(_DIM, text)}")
            self._has_status = True

    def _clear_status(self) -> None:
        if self._has_status:
            self._write(_CLEAR_LINE)
            self._has_status = False

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self._has_colour else text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
        if text.endswith("\n"):
            self._is_mid_line = False


def _describe_end(data: dict[str, Any]) -> str:
    net, full = data["usage"]["net_tokens"], data["full_budget_tokens"]
    spent = f"{data['units_spent']} of {data['budget']} {data['unit']}, {net:,} net tokens"
    if data["unit"] == "tokens":
        saved = "saved: unknown, a chain may end by itself before its cap"
    elif full > net:
        saved = f"saved about {full - net:,} of {full:,} tokens ({(full - net) / full:.0%})"
    else:
        saved = "saved: nothing, the whole budget was spent"
    return f"stopped: {data['explanation'] or data['stop_reason']} · {spent} · {saved}"
