"""Text comes out piece by piece, in whole characters, and never past a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_dynasor.serving.text_stream import TextStream
from tests.serving.kit import make_tokenizer

TOKENIZER = make_tokenizer()
PIECES = st.sampled_from(["a", "b", "é", "東", "🙂", " ", "\n", "Answer", "</s>", "ab"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def feed(stream: TextStream, ids: list[int]) -> str:
    pieces = []
    for token_id in ids:
        pieces.append(stream.push(token_id))
        if stream.is_stopped:
            break
    pieces.append(stream.finish())
    return "".join(pieces)


@given(prompt=TEXTS, text=TEXTS)
@settings(deadline=None)
def test_released_pieces_join_to_the_text(prompt: str, text: str) -> None:
    stream = TextStream(TOKENIZER, encode(prompt))
    assert feed(stream, encode(text)) == stream.text == text


@given(prompt=TEXTS, text=TEXTS, cut=st.integers(0, 3))
@settings(deadline=None)
def test_a_text_that_nobody_watches_is_the_same(prompt: str, text: str, cut: int) -> None:
    """Also where it ends within a character."""
    ids = encode(text)[: -cut or None]
    watched, unwatched = (TextStream(TOKENIZER, encode(prompt), is_watched=value) for value in (True, False))
    assert feed(watched, ids) == feed(unwatched, ids) == unwatched.text


@given(prompt=TEXTS, text=TEXTS, stop=st.lists(TEXTS.filter(bool), min_size=1, max_size=3))
@settings(deadline=None)
def test_text_ends_before_the_first_stop_string(prompt: str, text: str, stop: list[str]) -> None:
    stream = TextStream(TOKENIZER, encode(prompt), stop)
    joined = feed(stream, encode(text))
    assert joined == stream.text
    assert not any(item in joined for item in stop)
    assert text.startswith(joined)
    if not stream.is_stopped:
        assert joined == text
        assert not any(item in text for item in stop)


@given(text=TEXTS)
@settings(deadline=None)
def test_offsets_never_go_back_and_stay_in_the_text(text: str) -> None:
    stream = TextStream(TOKENIZER, encode("Q: "))
    ids = encode(text)
    feed(stream, ids)
    assert len(stream.offsets) == len(ids)
    assert list(stream.offsets) == sorted(stream.offsets)
    assert all(0 <= offset <= len(text) for offset in stream.offsets)


def test_a_character_of_several_tokens_is_held_back_until_it_is_whole() -> None:
    ids = encode("🙂")
    assert len(ids) > 1
    stream = TextStream(TOKENIZER, encode("Q"))
    assert [stream.push(token_id) for token_id in ids] == [""] * (len(ids) - 1) + ["🙂"]


def test_broken_bytes_are_released_at_the_end() -> None:
    stream = TextStream(TOKENIZER, encode("Q"))
    assert stream.push(encode("🙂")[0]) == ""
    assert stream.finish() == "�" == stream.text


def test_a_stop_string_may_span_tokens_and_its_tokens_begin_at_the_cut() -> None:
    ids = [token_id for letter in "so: xSTOPy" for token_id in encode(letter)]
    stream = TextStream(TOKENIZER, encode("Q"), ["STOP"])
    assert feed(stream, ids) == "so: x"
    assert stream.is_stopped
    assert stream.offsets == (0, 1, 2, 3, 4, 5, 5, 5, 5)


def test_what_may_begin_a_stop_string_is_released_once_it_does_not() -> None:
    stream = TextStream(TOKENIZER, encode("Q"), ["STOP"])
    assert [stream.push(encode(letter)[0]) for letter in "STAY"] == ["", "", "STA", "Y"]


@pytest.mark.parametrize("prompt", ["", "x", "東京 is"])
def test_a_leading_space_is_kept(prompt: str) -> None:
    stream = TextStream(TOKENIZER, encode(prompt))
    assert feed(stream, encode(" Tokyo")) == " Tokyo"


def test_a_leading_space_is_kept_where_the_decoder_strips_it() -> None:
    """Tokenizers of the SentencePiece kind write a word's space into its token and drop the first one of a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["the answer is four and the rest is noise"] * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    ids = fast.encode("the answer is four and the rest is noise", add_special_tokens=False)
    cut = len(ids) - len(fast.encode("four and the rest is noise", add_special_tokens=False))
    for is_watched in (True, False):
        stream = TextStream(fast, ids[:cut], is_watched=is_watched)
        assert feed(stream, ids[cut:]) == " four and the rest is noise"
