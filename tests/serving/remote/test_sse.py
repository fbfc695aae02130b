"""The stream parser: however the network cuts the bytes, the events are the same."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.serving.remote.sse import EventParser
from hf_dynasor.serving.remote.stop_strings import StopWatch

line_ends = st.sampled_from(["\n", "\r\n", "\r"])
data = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
lines = st.one_of(
    data.map(lambda text: ("data: " + text, text)),
    data.map(lambda text: (":" + text, None)),
    st.sampled_from([("event: x", None), ("id: 3", None), ("retry: 1", None)]),
)
events = st.lists(st.lists(lines, min_size=1, max_size=4), max_size=6)


def cut(whole, places):
    borders = sorted({place % (len(whole) + 1) for place in places} | {0, len(whole)})
    return [whole[a:b] for a, b in itertools.pairwise(borders)]


@given(events, line_ends, st.lists(st.integers(0, 10**6), max_size=40), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_events(events, end, places, has_mark):
    text = "".join("".join(line + end for line, _ in event) + end for event in events)
    expected = [
        "\n".join(value for _, value in event if value is not None)
        for event in events
        if any(value is not None for _, value in event)
    ]
    whole = (b"\xef\xbb\xbf" if has_mark else b"") + text.encode()
    parser = EventParser()
    assert [event for part in cut(whole, places) for event in parser.push(part)] == expected
    assert not parser.has_rest


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=20))
def test_rubbish_gives_the_same_rubbish_however_it_is_cut(whole, places):
    parts, at_once = EventParser(), EventParser()
    assert [event for part in cut(whole, places) for event in parts.push(part)] == at_once.push(whole)


def test_what_ends_without_a_blank_line_is_no_event():
    parser = EventParser()
    assert parser.push(b"data: a\n\ndata: b\n") == ["a"]
    assert parser.has_rest


@given(
    st.text("ab}", max_size=30),
    st.lists(st.text("ab}", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(0, 10**6), max_size=20),
)
def test_a_text_is_cut_before_its_first_stop_string_however_it_comes(text, stop, places):
    watch = StopWatch(stop)
    told = "".join(watch.push(part) for part in cut(text, places)) + watch.finish()
    found = [place for item in stop if (place := text.find(item)) >= 0]
    # A split may end the search one string earlier, never later: the first end decides.
    assert text.startswith(told)
    assert watch.is_stopped == bool(found)
    assert told == text if not found else not any(item in told for item in stop)
