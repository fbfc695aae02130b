"""A recipe's program options: read by the program that they are for, refused by every other."""

import pytest

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.program_options import build_chain_settings
from hf_dynasor.programs import ChainSettings
from hf_dynasor.recipe import Recipe
from hf_dynasor.stopping import EFFORTS, AnswerConsistency, BoundaryConfidence


def build(program, **options):
    return Recipe(program=program, program_options=options).build("What is 2+2?")


def test_a_chain_is_read_by_the_rule_that_fits_its_mode():
    assert build("chain_of_thought")[0].settings.rule == EFFORTS["mid"]
    assert build("chain_of_thought", interval=16)[0].settings.rule == AnswerConsistency(window=3, interval=16)
    assert build("chain_of_thought", mode="cut")[0].settings.rule.interval == 1
    assert build("chain_of_thought", mode="guided")[0].settings.rule is None
    assert build("chain_of_thought", rule="none")[0].settings.rule is None
    assert build("chain_of_thought", rule="crazy")[0].settings.rule == EFFORTS["crazy"]


@pytest.mark.parametrize("mode", ["guided", "cut"])
def test_a_chain_that_is_made_to_answer_thinks_first_unless_the_papers_way_is_named(mode):
    assert build("chain_of_thought", mode=mode)[0].settings.min_thinking == 256
    assert build("chain_of_thought", mode=mode, min_thinking=0)[0].settings.min_thinking == 0
    assert build("chain_consistency", mode=mode)[0].settings.min_thinking == 256
    assert ChainSettings(mode=mode).min_thinking == 0


def test_a_rule_brings_its_own_delimiter():
    rule = BoundaryConfidence(delimiter="\n")
    assert build_chain_settings(rule=rule).delimiter == "\n"
    assert build_chain_settings(rule="boundary_confidence").rule == BoundaryConfidence()


def test_programs_that_read_themselves_are_granted_everything():
    program, policy = build("chain_of_thought")
    assert (policy.name, program.knob.unit) == ("even", "tokens")
    assert build("chain_consistency")[1].name == "even"
    assert build("self_consistency")[1].name == "static"


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("self_consistency", {"mode": "cut"}),
        ("chain_of_thought", {"vote": "majority"}),
        ("chain_of_thought", {"stop_decided": True}),
        ("self_consistency", {"settings": None}),
    ],
)
def test_an_option_that_a_program_does_not_read_raises(program, options):
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"'{name}'.*{program} does not read"):
        build(program, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("interval", {"mode": "plain", "interval": 16}),
        ("suffix", {"mode": "plain", "suffix": "short"}),
        ("min_thinking", {"mode": "probed", "min_thinking": 64}),
        ("min_thinking", {"mode": "plain", "min_thinking": 64}),
        ("at_steps", {"mode": "probed", "at_steps": True}),
        ("at_steps", {"mode": "plain", "at_steps": True}),
        ("exit", {"mode": "guided", "exit": "answer"}),
        ("suffix", {"mode": "cut", "suffix": "short"}),
        ("resume", {"resume": "Wait."}),
        ("closing", {"closing": "boxed"}),
        ("interval", {"rule": "boundary_confidence", "interval": 16}),
    ],
)
def test_an_option_that_a_chain_of_this_mode_does_not_read_raises(name, options):
    with pytest.raises(ConfigurationError, match=f"{name}.*Leave it out"):
        build("chain_of_thought", **options)


def test_options_that_a_mode_reads_are_taken():
    assert build("chain_of_thought", mode="cut", interval=16, exit="answer", closing="boxed", resume="Wait.")
    assert build("chain_of_thought", suffix="short", exit="answer", closing="boxed")
    assert build("chain_of_thought", rule="none", interval=16)[0].settings.interval == 16


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"Unknown stopping rule 'maybe'.*none"):
        build("chain_of_thought", rule="maybe")


def test_a_certainty_vote_asks_for_the_probabilities_that_it_weighs_by():
    assert build("self_consistency", vote="certainty")[0].sampling.logprobs


def test_new_answer_formats_reach_the_programs():
    recipe = Recipe(program="chain_of_thought", answer_format="set")
    assert recipe.build("q")[0].settings.answer_format == "set"
    assert Recipe(answer_format="code").build("q")[0].answer_format == "code"
