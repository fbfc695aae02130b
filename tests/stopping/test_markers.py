"""Think markers: found from tokenizer, chat template and generation config; the phase of a row."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping import Phase, RowThinking, ThinkMarkers, find_think_markers
from hf_dynasor.stopping.markers import write_closing
from tests.stopping.kit import encode, make_plain_tokenizer


@pytest.fixture
def other():
    """A tokenizer of its own, to be changed."""
    return AutoTokenizer.from_pretrained(REASONER_PATH, local_files_only=True)


def follow(tokenizer, text, prompt="", markers="find"):
    found = find_think_markers(tokenizer) if markers == "find" else markers
    row = RowThinking(tokenizer, found, tokenizer.encode(prompt, add_special_tokens=False))
    phases = [row.phase]
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        row.append(token_id)
        phases.append(row.phase)
    return row, phases


def test_the_embedded_models_markers_are_single_tokens(tokenizer):
    markers = find_think_markers(tokenizer)
    assert (markers.open_text, markers.close_text, markers.is_single) == ("<think>", "</think>", True)
    assert tokenizer.decode(markers.close_ids) == "</think>"


def test_a_prompt_that_opens_thinking_counts_from_the_first_token(tokenizer):
    ids = encode(tokenizer, ["What is 2+3?"])["input_ids"][0].tolist()
    assert RowThinking(tokenizer, find_think_markers(tokenizer), ids).phase is Phase.THINKING


def test_a_model_that_opens_thinking_itself_counts_from_there(tokenizer):
    row, phases = follow(tokenizer, "so<think>2+3=5</think>5", prompt="<|assistant|>")
    assert phases[0] is Phase.BEFORE
    assert phases[-1] is Phase.AFTER
    assert row.num_tokens == len(tokenizer.encode("2+3=5", add_special_tokens=False))


def test_thinking_that_the_prompt_closed_stays_closed(tokenizer):
    row, phases = follow(tokenizer, "2+3=5", prompt="<|assistant|><think>\n\n</think>\n\n")
    assert set(phases) == {Phase.AFTER}
    assert row.num_tokens == 0


def test_an_earlier_turns_thinking_does_not_count(tokenizer):
    _, phases = follow(
        tokenizer, "5", prompt="<|assistant|><think>a</think>b<|end|><|user|>c<|end|><|assistant|>"
    )
    assert phases[0] is Phase.BEFORE
    _, phases = follow(tokenizer, "5", prompt="<|user|>what does <think> mean?<|end|><|assistant|>")
    assert phases[0] is Phase.BEFORE


def test_a_model_without_markers_thinks_until_it_ends():
    plain = make_plain_tokenizer()
    assert find_think_markers(plain) is None
    row, phases = follow(plain, "2+3=5", prompt="hello")
    assert set(phases) == {Phase.THINKING}
    assert row.num_tokens == 5


def test_the_generation_config_comes_first(tokenizer):
    config = SimpleNamespace(think_start_token_id=3, think_end_token_id=4)
    markers = find_think_markers(tokenizer, config)
    assert (markers.open_ids, markers.close_ids) == ((3,), (4,))


def test_the_response_template_names_markers(other):
    other.add_tokens(["<ponder>", "</ponder>"])
    other.response_template = {"fields": {"thinking": {"open": "<ponder>", "close": "</ponder>"}}}
    other.chat_template = "{{ '<ponder>' }}{{ '</ponder>' }}"
    assert find_think_markers(other).close_text == "</ponder>"


def test_a_pair_that_the_template_uses_beats_one_that_only_the_vocabulary_has(other):
    other.add_tokens(["[THINK]", "[/THINK]"])
    other.chat_template = "{{ '[THINK]' }}{{ '[/THINK]' }}"
    assert find_think_markers(other).open_text == "[THINK]"


def test_markers_of_many_tokens_are_followed():
    plain = make_plain_tokenizer()
    plain.chat_template = "{{ '◁think▷' }} ... {{ '◁/think▷' }}"
    markers = find_think_markers(plain)
    assert len(markers.close_ids) > 8
    assert follow(plain, "◁think▷so◁/think▷5", prompt="hello")[1][-1] is Phase.AFTER


def test_markers_of_several_tokens_are_found_in_the_template_and_followed_by_text():
    plain = make_plain_tokenizer()
    plain.chat_template = "{{ '<think>' }} ... {{ '</think>' }}"
    markers = find_think_markers(plain)
    assert not markers.is_single
    row, phases = follow(plain, "<think>\nWell, 5.\n</think>\n\nIt is 5.", prompt="hello")
    assert phases[0] is Phase.BEFORE
    assert Phase.THINKING in phases
    assert phases[-1] is Phase.AFTER
    assert row.num_tokens > 0
    assert follow(plain, "so", prompt="<think>\n")[1][0] is Phase.THINKING
    assert follow(plain, "so", prompt="<think>\n</think>")[1][0] is Phase.AFTER


def test_explicit_markers_are_taken_and_unknown_ones_refused(tokenizer):
    assert find_think_markers(tokenizer, markers=("<think>", "</think>")).is_single
    with pytest.raises(ConfigurationError, match=r"'<ponder>'.*vocabulary.*<think>, </think>"):
        find_think_markers(tokenizer, markers=("<ponder>", "</ponder>"))


def test_no_tokenizer_is_refused():
    with pytest.raises(ConfigurationError, match=r"tokenizer = None .*from_pretrained"):
        find_think_markers(None)


def test_markers_without_ids_are_refused():
    with pytest.raises(ConfigurationError, match="at least one each"):
        ThinkMarkers(open_text="a", close_text="b", open_ids=(), close_ids=(1,))


def test_a_thought_is_closed_by_the_markers_own_token(tokenizer):
    """Users' wish (llama.cpp#25961): a graceful close is the special token, not its letters."""
    markers = find_think_markers(tokenizer)
    ids = write_closing(tokenizer, markers, "2+3=5")
    assert markers.close_ids[0] in ids
    assert tokenizer.decode(ids) == "\n</think>\n\n"
    assert tokenizer.decode(write_closing(tokenizer, markers, "5\n\n")) == "</think>\n\n"
    assert tokenizer.decode(write_closing(tokenizer, None, "5")) == "\n\n"
