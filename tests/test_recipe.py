"""A recipe is checked as a whole when it is made; no option is ignored."""

import pytest

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import Chat
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.program import DEFAULT_INSTRUCTION
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even, Length, StaticThreshold


def test_the_policy_gets_the_options_that_it_reads():
    recipe = Recipe(thresholds=Thresholds(entropy=0.4), detect_at=3)
    assert recipe.build_policy() == StaticThreshold(thresholds=Thresholds(entropy=0.4), detect_at=3)
    assert Recipe(policy="length", max_tokens=100).build_policy() == Length(max_tokens=100)
    assert Recipe(policy=Even()).build_policy() == Even()


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "even", "thresholds": Thresholds(entropy=0.5)},
        {"policy": "static", "max_tokens": 100},
        {"policy": Even(), "detect_at": 3},
        {"prompt_format": "plain", "system": "Be brief."},
        {"prompt_format": "plain", "enable_thinking": True},
    ],
)
def test_an_option_that_nothing_reads_is_refused(options):
    with pytest.raises(ConfigurationError, match=r"does not read it|belong to chat"):
        Recipe(**options)


def test_the_instruction_follows_the_question():
    segment = Recipe(system="Be brief.").build_prompt(" What is 2+2? ").segments[0]
    assert isinstance(segment, Chat)
    assert [message.role for message in segment.messages] == ["system", "user"]
    assert segment.messages[1].content.startswith("What is 2+2?\nPlease reason")
    assert Recipe(instruction="").build_prompt("2+2?").segments[0].messages[0].content == "2+2?"


def test_a_plain_prompt_is_bare_text():
    assert Recipe(prompt_format="plain", instruction="").build_prompt("2+2?").segments == ("2+2?\n\n",)


def test_an_empty_question_is_refused():
    with pytest.raises(InputError):
        Recipe().build("\n")


def test_other_questions_and_repeats_draw_with_other_seeds():
    recipe = Recipe(seed=1)

    def seed(question, repeat=0):
        return recipe.build(question, repeat=repeat)[0].sampling.seed

    assert seed("2+2?") == seed(" 2+2? ")
    assert len({seed("2+2?"), seed("2+3?"), seed("2+2?", 1)}) == 3
    assert Recipe().build("2+2?")[0].sampling.seed is None


def test_the_instruction_is_not_said_twice():
    text = f"What is 2+2? {DEFAULT_INSTRUCTION}"
    assert Recipe().build_prompt(text).segments[0].messages[0].content == text


def test_a_conversation_is_a_question():
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2+2?"},
    ]
    messages = Recipe(system="Be brief.").build_prompt(turns).segments[0].messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1].content.startswith("2+2?\nPlease")


@pytest.mark.parametrize(
    "question",
    [None, 3, [], [{"role": "user"}], [{"role": "robot", "content": "a"}], ["2+2?"], [{"role": "user", "content": 3}],
     [{"role": "assistant", "content": "Hello"}]],
)  # fmt: skip
def test_what_is_no_question_is_refused(question):
    with pytest.raises(InputError, match="expected"):
        Recipe().build(question)


def test_a_conversation_has_one_system_message_and_a_chat_template():
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(ConfigurationError, match="Expected one"):
        Recipe(system="c").build(turns)
    with pytest.raises(ConfigurationError, match="Expected a text"):
        Recipe(prompt_format="plain").build(turns)


def test_a_preset_is_a_row_of_table_1():
    assert Recipe(preset="sc/livecodebench").build_policy() == StaticThreshold(
        thresholds=Thresholds(entropy=0.4), detect_at=5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "sc/haiku"}, r"Unknown preset 'sc/haiku'. Known: .*sc/gsm8k"),
        ({"preset": "sc/math", "detect_at": 3}, r"the one or the other"),
        ({"preset": "sc/math", "policy": "even"}, r"does not read it"),
        ({"preset": "mcts/asdiv"}, r"threshold on reward, which self_consistency never knows"),
        ({"thresholds": Thresholds(reward=0.5)}, r"It knows: agreement, answer_probability, entropy"),
        ({"budget": "5"}, r"whole number"),
        ({"budget": 2.5}, r"whole number"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Recipe(**options)


def test_a_threshold_on_answer_probability_asks_for_logprobs():
    """It once was accepted and never acted, because only the command line switched log-probabilities on."""
    assert Recipe(thresholds=Thresholds(answer_probability=0.9)).build("2+2?")[0].sampling.logprobs
    assert not Recipe().build("2+2?")[0].sampling.logprobs
