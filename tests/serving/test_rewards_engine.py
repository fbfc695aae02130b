"""`Score` requests on both engines: one completion each, honest usage, beside decoding, cancelled and failing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from hf_dynasor.core import Completion, FinishReason, Prompt, RequestKey, Score, TokenIds
from hf_dynasor.engine import Ability
from hf_dynasor.errors import ConfigurationError, EngineError, UnsupportedError
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, LoadedModel, make_engine
from hf_dynasor.serving.rewards import EncodedStep, LikelihoodReward, Rating, StepInput
from hf_dynasor.serving.solver import Solver
from tests.serving.kit import Collector, ask

ENGINES = {"generate": GenerateEngine, "continuous": ContinuousBatchingEngine}
QUESTION = Prompt.chat("What is 17 * 6 + 4?")
RIGHT, WRONG = "17*6=102\n\n", "17*6=112\n\n"


def rate(prompt: Prompt, name: str = "s0") -> Score:
    return Score(key=RequestKey(program_id="p", request_id=name), prompt=prompt)


def complete(engine: object, *requests: object) -> list[Completion]:
    collector = Collector()
    engine.submit(requests, collector)
    done = collector.wait(len(requests))
    assert collector.num_completions == len(requests)
    return [done[request.key] for request in requests]


class StubReward:
    """Rates every step 0.5, when it is let."""

    name = "stub"
    normaliser = "none"

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.batches: list[int] = []
        self.error: Exception | None = None

    def encode(self, step: StepInput) -> EncodedStep:
        return EncodedStep(ids=tuple(range(100)))

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        self.has_begun.set()
        assert self.may_go.wait(60)
        self.batches.append(len(steps))
        if self.error is not None:
            raise self.error
        return [Rating(score=0.5, num_read=len(step.ids)) for step in steps]


@pytest.fixture(params=sorted(ENGINES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_engine(
    kind: str, embedded: LoadedModel, reward: object
) -> GenerateEngine | ContinuousBatchingEngine:
    return ENGINES[kind](embedded, reward=reward)


def test_both_engines_rate_steps_as_the_reward_model_does(kind, embedded):
    alone = LikelihoodReward(embedded)
    paths = [(RIGHT,), (WRONG,), (RIGHT, "102+4=106\n\n"), (RIGHT, "102+4=107\n\n")]
    steps = [alone.encode(StepInput.of("What is 17 * 6 + 4?", path)) for path in paths]
    expected = [rating.score for rating in alone.score(steps)]
    with make_engine(embedded, engine=kind, reward="likelihood") as engine:
        assert Ability.SCORE in engine.abilities
        done = complete(
            engine, *(rate(Prompt((*QUESTION.segments, *path)), f"s{i}") for i, path in enumerate(paths))
        )
    assert [completion.score for completion in done] == pytest.approx(expected, rel=1e-4)
    assert all(completion.finish_reason is FinishReason.EOS for completion in done)
    assert all((completion.text, completion.token_ids) == ("", ()) for completion in done)


def test_generating_is_not_disturbed_by_scores_beside_it(kind, embedded):
    asked = [ask(QUESTION, f"g{i}", max_new_tokens=40) for i in range(3)]
    with make_engine(embedded, engine=kind, reward=None) as engine:
        alone = [completion.token_ids for completion in complete(engine, *asked)]
    with make_engine(embedded, engine=kind, reward="likelihood") as engine:
        scores = [rate(QUESTION + RIGHT + f"{i}+1={i + 1}", f"s{i}") for i in range(20)]
        done = complete(engine, *asked, *scores)
    assert [completion.token_ids for completion in done[:3]] == alone
    assert all(completion.score is not None for completion in done[3:])


def test_what_was_generated_is_rated_by_its_own_ids_without_the_end_of_its_turn(kind, embedded):
    """The likelihood of a greedy sample equals what the engine itself said of its tokens, the end left out."""
    with make_engine(embedded, engine=kind, reward="likelihood") as engine:
        (sample,) = complete(engine, ask(QUESTION, max_new_tokens=60, logprobs=True))
        assert sample.finish_reason is FinishReason.EOS
        (scored,) = complete(engine, rate(QUESTION + TokenIds(ids=sample.token_ids)))
    assert scored.score == pytest.approx(2.718281828459045 ** min(sample.logprobs[:-1]), rel=1e-3)


def test_usage_counts_what_was_read_and_leaves_out_what_was_reused(kind, embedded):
    with make_engine(embedded, engine=kind, reward="likelihood") as engine:
        (first,) = complete(engine, rate(QUESTION + RIGHT))
        (second,) = complete(engine, rate(QUESTION + RIGHT + "102+4=106\n\n"))
        length = len(
            engine.scores.reward.encode(StepInput.of("What is 17 * 6 + 4?", (RIGHT, "102+4=106\n\n"))).ids
        )
        assert first.usage.net_tokens == first.usage.reward > second.usage.reward > 0
        assert second.usage.to_dict() | {"reward": 0, "net_tokens": 0} == dict.fromkeys(
            second.usage.to_dict(), 0
        )
        assert engine.scores.num_tokens_read == first.usage.reward + second.usage.reward
        assert engine.scores.num_tokens_reused == length - second.usage.reward


def test_an_engine_without_a_reward_model_says_how_to_give_it_one(kind, embedded):
    with open_engine(kind, embedded, None) as engine:
        assert Ability.SCORE not in engine.abilities
        with pytest.raises(
            UnsupportedError, match=r"reward scores.*make_engine\(\.\.\., reward=.*--reward-model"
        ):
            engine.submit([rate(QUESTION + RIGHT)], Collector())


def test_cancelled_scores_end_once_whether_they_wait_or_run(kind, embedded):
    reward = StubReward()
    with open_engine(kind, embedded, reward) as engine:
        collector = Collector()
        running = rate(QUESTION + RIGHT, "running")
        engine.submit([running], collector)
        assert reward.has_begun.wait(60)
        waiting = [rate(QUESTION + RIGHT, f"waiting{i}") for i in range(3)]
        kept = rate(QUESTION + RIGHT, "kept")
        engine.submit([*waiting, kept], collector)
        engine.cancel([request.key for request in (running, *waiting)])
        reward.may_go.set()
        done = collector.wait(5)
        assert engine.num_in_flight == 0
    assert collector.num_completions == 5
    assert done[running.key].finish_reason is FinishReason.CANCELLED
    assert done[running.key].usage.reward == 100
    assert done[running.key].score is None
    assert all(done[request.key].finish_reason is FinishReason.CANCELLED for request in waiting)
    assert all(done[request.key].usage.reward == 0 for request in waiting)
    assert done[kept.key].score == 0.5
    assert reward.batches == [1, 1]


def test_closing_ends_scores_that_wait_and_scores_that_run(kind, embedded):
    reward = StubReward()
    collector = Collector()
    with open_engine(kind, embedded, reward) as engine:
        engine.submit([rate(QUESTION + RIGHT, "running")], collector)
        assert reward.has_begun.wait(60)
        engine.submit([rate(QUESTION + RIGHT, "waiting")], collector)
        reward.may_go.set()
    done = collector.wait(2)
    assert collector.num_completions == 2
    waiting = done[RequestKey(program_id="p", request_id="waiting")]
    assert waiting.finish_reason in (FinishReason.CANCELLED, FinishReason.EOS)
    with pytest.raises(EngineError, match="closed"):
        engine.submit([rate(QUESTION + RIGHT)], collector)


def test_a_failing_reward_model_fails_its_requests_and_nothing_else(kind, embedded, caplog):
    reward = StubReward()
    reward.may_go.set()
    reward.error = RuntimeError("out of luck")
    with open_engine(kind, embedded, reward) as engine:
        (failed,) = complete(engine, rate(QUESTION + RIGHT))
        assert (failed.finish_reason, failed.error) == (FinishReason.FAILED, "RuntimeError: out of luck")
        assert failed.score is None
        reward.error = None
        generated, scored = complete(engine, ask(QUESTION), rate(QUESTION + RIGHT))
        engine.check_health()
    assert generated.token_ids
    assert scored.score == 0.5
    assert "could not score 1 steps" in caplog.text


def test_batches_are_bounded(kind, embedded):
    reward = StubReward()
    with open_engine(kind, embedded, reward) as engine:
        collector = Collector()
        engine.submit([rate(QUESTION + RIGHT, "first")], collector)
        assert reward.has_begun.wait(60)
        engine.submit([rate(QUESTION + RIGHT, f"s{i}") for i in range(150)], collector)
        reward.may_go.set()
        collector.wait(151)
    assert reward.batches == [1, 64, 64, 22]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (QUESTION, "at least two: the question, and the step"),
        (QUESTION + RIGHT * 400, r"takes at most 2048"),
    ],
)
def test_what_cannot_be_scored_is_refused_at_once_and_whole(kind, embedded, prompt, message):
    with make_engine(embedded, engine=kind, reward="likelihood") as engine:
        collector = Collector()
        with pytest.raises(ConfigurationError, match=message):
            engine.submit([rate(QUESTION + RIGHT, "fine"), rate(prompt, "broken")], collector)
        assert engine.num_in_flight == 0


def test_the_embedded_reward_comes_with_the_embedded_model_and_is_loaded_when_asked_for():
    with make_engine(engine="generate", device="cpu") as engine:
        assert Ability.SCORE in engine.abilities
        assert engine.scores.reward._loaded is None
        right, wrong = complete(engine, rate(QUESTION + RIGHT, "a"), rate(QUESTION + WRONG, "b"))
        assert right.score > 0.5 > 0.05 > wrong.score
        assert engine.scores.reward.name == "likelihood(embedded)"
    with make_engine(engine="generate", device="cpu", reward=None) as engine:
        assert Ability.SCORE not in engine.abilities


def test_a_solver_takes_a_reward_and_refuses_one_for_a_running_engine(embedded):
    reward = StubReward()
    with Solver(embedded, reward=reward, budget=1) as solver:
        assert Ability.SCORE in solver.engine.abilities
        with pytest.raises(ConfigurationError, match="reward = 'embedded' with a running engine"):
            Solver(solver.engine, reward="embedded", budget=1)
