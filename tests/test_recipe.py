"""A recipe is checked as a whole when it is made; no option is ignored."""

import pytest

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import Chat
from hf_dynasor.errors import ConfigurationError, InputError
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


def test_programs_of_other_ids_draw_with_other_seeds():
    recipe = Recipe(seed=1)
    seeds = {recipe.build("2+2?", program_id=name)[0].sampling.seed for name in ("a", "b")}
    assert len(seeds) == 2
    assert Recipe().build("2+2?")[0].sampling.seed is None
