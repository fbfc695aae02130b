"""Self-consistency: votes count answers, silence is no agreement, and certainty ends it."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import Completion, FinishReason, Prompt, SamplingParams, Usage
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import StopReason
from hf_dynasor.paths import PathRecord
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import Reply, ScriptedEngine

PROMPT = Prompt.chat("What is 2+2?")


def box(answer):
    return f"So it is \\boxed{{{answer}}}."


def solve(texts, *, policy=None, budget=None, **options):
    program = SelfConsistency(PROMPT, budget=budget or len(texts), **options)
    return run(program, ScriptedEngine(texts), policy or Even())


def test_unanimous_samples_stop_at_five():
    answer = solve([box(4)] * 20, policy=StaticThreshold())
    assert (answer.text, answer.units_spent, answer.stop_reason) == ("4", 5, StopReason.CERTAIN)
    assert answer.certaindex.entropy == 1.0
    assert answer.certaindex.num_paths == 5
    assert answer.is_early


def test_four_of_five_go_on_to_the_cap():
    answer = solve([box(4)] * 4 + [box(5)] + [box(4)] * 15, policy=StaticThreshold())
    assert (answer.text, answer.units_spent, answer.stop_reason) == ("4", 20, StopReason.BUDGET)
    assert not answer.is_early


def test_votes_count_answers_not_texts():
    """A peer counts (text, answer) pairs: all differ, so the first answer always wins."""
    assert solve(["First, \\boxed{5}", "I think \\boxed{4}", "Clearly \\boxed{4}"]).text == "4"


def test_equal_answers_in_other_spellings_are_one_group():
    answer = solve([box("1/2"), box("0.5"), box("\\frac{1}{2}"), box("50")])
    assert answer.certaindex.agreement == 0.75
    assert answer.votes[0][1] == 3


def test_five_silent_samples_are_not_certain():
    """A peer exits on answers that are different or empty."""
    answer = solve(["I do not know."] * 20, policy=StaticThreshold())
    assert answer.text is None
    assert answer.units_spent == 20
    assert answer.certaindex.entropy == 0.0


def test_silence_lowers_certainty():
    with_silence = solve([box(4)] * 4 + ["Hmm."])
    unanimous = solve([box(4)] * 4)
    assert with_silence.certaindex.entropy < unanimous.certaindex.entropy == 1.0


def test_one_sample_is_never_certain():
    answer = solve([box(4)])
    assert answer.certaindex.entropy is None
    assert answer.certaindex.agreement is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["1", "2", "3", "none"]), min_size=2, max_size=9), st.integers(0, 2**32))
def test_the_order_in_which_samples_end_changes_nothing(answers, seed):
    texts = [box(answer) if answer != "none" else "?" for answer in answers]

    def script(request):
        return Reply(text=texts[int(request.key.request_id.removeprefix("sample-"))])

    in_order = run(SelfConsistency(PROMPT, budget=len(texts)), ScriptedEngine(script), Even())
    shuffled = run(
        SelfConsistency(PROMPT, budget=len(texts)), ScriptedEngine(script, rng=random.Random(seed)), Even()
    )
    assert in_order == shuffled


def test_a_truncated_sample_votes_only_with_an_answer_that_it_stated():
    """The last number of a chain that ran out of tokens is a step of it, not an answer."""
    replies = iter(
        [
            Reply(text="3*4=12 and then 12+5", finish_reason=FinishReason.LENGTH),
            Reply(text="So \\boxed{17}. Wait, 12", finish_reason=FinishReason.LENGTH),
            Reply(text="It is 17"),
        ]
    )
    answer = run(SelfConsistency(PROMPT, budget=3), ScriptedEngine(lambda request: next(replies)), Even())
    assert answer.votes == (("17", 2.0),)
    assert answer.certaindex.agreement == pytest.approx(2 / 3)


def test_a_failed_sample_has_no_vote_and_is_told():
    replies = iter(
        [
            Reply(finish_reason=FinishReason.FAILED, error="out of memory"),
            Reply(text=box(7)),
            Reply(text=box(7)),
        ]
    )
    answer = run(SelfConsistency(PROMPT, budget=3), ScriptedEngine(lambda request: next(replies)), Even())
    assert (answer.text, answer.num_failed, answer.certaindex.num_paths) == ("7", 1, 2)


def test_failed_samples_do_not_make_the_others_unanimous():
    """Two agreeing survivors of five once were certain "at 5 samples"."""
    failed = Reply(finish_reason=FinishReason.FAILED, error="out of memory")
    replies = iter([failed] * 3 + [Reply(text=box(7))] * 17)
    program = SelfConsistency(PROMPT, budget=20)
    answer = run(program, ScriptedEngine(lambda request: next(replies)), StaticThreshold())
    assert answer.trace[0].certaindex.entropy < 0.5
    assert answer.units_spent == 20


def test_a_program_without_a_surviving_sample_raises_with_the_cause():
    failed = Reply(finish_reason=FinishReason.FAILED, error="out of memory")
    with pytest.raises(ProgramError, match="out of memory"):
        run(SelfConsistency(PROMPT, budget=2), ScriptedEngine(lambda request: failed), Even())


def test_every_sample_gets_a_seed_of_its_own():
    engine = ScriptedEngine([box(4)] * 6)
    run(SelfConsistency(PROMPT, budget=6, sampling=SamplingParams(seed=3)), engine, StaticThreshold())
    seeds = [request.sampling.seed for request in engine.submitted]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


def test_greedy_samples_are_refused_but_one():
    with pytest.raises(ConfigurationError, match="all the same"):
        SelfConsistency(PROMPT, budget=2, sampling=SamplingParams(temperature=0))
    SelfConsistency(PROMPT, budget=1, sampling=SamplingParams(temperature=0))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="budget of 0 samples"):
        SelfConsistency(PROMPT, budget=0)


def probability_of(text, pieces):
    """The answer-probability signal of two equal samples whose tokens spell `text` piece by piece."""
    flow = SelfConsistency(PROMPT, budget=2).flow(Even())
    starts = [sum(len(piece) for piece, _ in pieces[:index]) for index in range(len(pieces))]
    assert "".join(piece for piece, _ in pieces) == text
    requests = next(flow)
    for request in requests:
        completion = Completion(
            key=request.key,
            text=text,
            token_ids=tuple(range(len(pieces))),
            logprobs=tuple(math.log(probability) for _, probability in pieces),
            offsets=tuple(starts),
            finish_reason=FinishReason.EOS,
            usage=Usage(sampled=len(pieces)),
        )
        try:
            flow.send(completion)
        except StopIteration as stop:
            return stop.value.certaindex.answer_probability
    return None


def test_the_answer_probability_is_that_of_the_answers_own_tokens():
    """The box holds 17 in two tokens of probability 0.5 and 0.8; the words around it do not count."""
    pieces = [("It is ", 0.1), ("\\boxed{", 0.2), ("1", 0.5), ("7", 0.8), ("}.", 0.3)]
    assert probability_of("It is \\boxed{17}.", pieces) == pytest.approx(math.sqrt(0.5 * 0.8))


def test_the_answer_probability_is_read_where_the_answer_stands():
    """It once was read from the last place that spells it: here the 8 of "18 steps"."""
    pieces = [("So \\boxed{", 0.9), ("8", 0.25), ("}. That took 1", 0.9), ("8", 1.0), (" steps.", 0.9)]
    assert probability_of("So \\boxed{8}. That took 18 steps.", pieces) == pytest.approx(0.25)


def test_without_logprobs_the_answer_probability_is_unknown():
    assert "answer_probability" not in solve([box(4)] * 3).certaindex.signals


def test_savings_are_estimated_from_the_mean_sample():
    answer = solve(["\\boxed{4} is what it is"] * 20, policy=StaticThreshold())
    assert answer.full_budget_tokens == answer.usage.net_tokens * 4


def test_paths_are_the_samples_in_order_and_survive_json():
    engine = ScriptedEngine([f"So \\boxed{{{index % 3}}}." for index in range(6)])
    answer = run(SelfConsistency(PROMPT, budget=6), engine, Even())
    assert [path.unit for path in answer.paths] == list(range(6))
    assert [path.answer for path in answer.paths] == ["0", "1", "2", "0", "1", "2"]
    assert sum(path.num_tokens for path in answer.paths) == answer.usage.net_tokens
    rows = json.loads(json.dumps([path.to_dict() for path in answer.paths]))
    assert tuple(PathRecord.from_dict(row) for row in rows) == answer.paths
