"""Events that are encoded but for their text say what events that are encoded whole say."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.serving.http import sse


def _make_row(text: str) -> dict:
    return {"id": 'a"b', "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_a_text_event_equals_the_whole_row_encoded(text: str) -> None:
    events = sse.TextEvents(_make_row(""), ("choices", 0, "delta", "content"))
    event = events.encode(text)
    assert event == sse.encode_event(_make_row(text))
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert json.loads(event[6:]) == _make_row(text)
