"""One flow, three drivers: the same answers, every request ended exactly once, nothing left behind."""

import asyncio
import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import Cancel, Completion, FinishReason, Generate, Prompt, SamplingParams
from hf_dynasor.drivers import arun, run, run_many
from hf_dynasor.engine import Ability
from hf_dynasor.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeoutError,
    ProgramError,
    UnsupportedError,
)
from hf_dynasor.grants import Decision, Knob, StopReason
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import Reply, ScriptedEngine

PROMPT = Prompt.chat("What is 2+2?")


class FirstOf(ReasoningProgram):
    """Takes the first sample that ends and leaves the others in flight: its return must cancel them."""

    name = "first_of"
    signals = frozenset()

    def __init__(self, *, budget=4, label="first"):
        super().__init__(label=label, knob=Knob(unit="samples", maximum=budget))
        self.text = None

    def execute(self, grant):
        completion = yield tuple(Generate(key=self.key(f"{n}"), prompt=PROMPT) for n in range(grant))
        self.text = completion.text

    def update_certaindex(self):
        self.certaindex = Certaindex(num_paths=1)

    def select_answer(self):
        return self.text


def label(request):
    return request.key.program_id.partition("#")[0]


def one_ready_others_held(request):
    is_first = request.key.request_id == "0"
    return Reply(text="ready", num_tokens=3) if is_first else Reply(text="half", num_tokens=2, is_held=True)


def answers_by_index(request):
    """Different questions and samples get different answers, the same ones always the same."""
    value = random.Random(f"{label(request)} {request.key.request_id}").choice([4, 4, 5])
    return Reply(
        text=f"\\boxed{{{value}}}",
        num_tokens=random.Random(f"{label(request)} {request.key.request_id} n").randint(1, 9),
    )


def test_returning_early_cancels_what_is_in_flight_and_counts_it():
    engine = ScriptedEngine(one_ready_others_held)
    answer = run(FirstOf(), engine, Even())
    assert answer.text == "ready"
    assert len(engine.cancelled) == 3
    assert answer.usage.sampled == 3 + 3 * 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32), st.sampled_from([Even(), StaticThreshold(detect_at=3)]))
def test_sync_async_and_many_give_the_same_answer_in_any_order_of_arrival(budget, seed, policy):
    def make(name):
        return SelfConsistency(PROMPT, budget=budget, label=name)

    alone = run(make("p"), ScriptedEngine(answers_by_index), policy)
    shuffled = run(make("p"), ScriptedEngine(answers_by_index, rng=random.Random(seed)), policy)
    awaited = asyncio.run(arun(make("p"), ScriptedEngine(answers_by_index), policy))
    many = list(run_many([(make("p"), policy), (make("q"), policy)], ScriptedEngine(answers_by_index)))
    assert alone == shuffled == awaited == next(outcome.answer for outcome in many if outcome.index == 0)


def test_every_submitted_request_ends_exactly_once():
    ended = Counter()

    class Counting(SelfConsistency):
        def _account(self, completion, depth_at_start):
            ended[completion.key] += 1
            super()._account(completion, depth_at_start)

    engine = ScriptedEngine(answers_by_index, rng=random.Random(0))
    programs = [(Counting(PROMPT, budget=7, label=f"p{n}"), StaticThreshold()) for n in range(9)]
    outcomes = list(run_many(programs, engine, max_active=3))
    assert sorted(outcome.index for outcome in outcomes) == list(range(9))
    assert ended == Counter(request.key for request in engine.submitted)
    assert set(ended.values()) == {1}


def test_no_more_programs_are_active_than_asked_for():
    active, most = set(), []

    def script(request):
        active.add(label(request))
        most.append(len(active))
        return Reply(text="\\boxed{1}")

    programs = ((SelfConsistency(PROMPT, budget=2, label=f"p{n}"), Even()) for n in range(6))
    for outcome in run_many(programs, ScriptedEngine(script), max_active=2):
        active.discard(f"p{outcome.index}")
    assert max(most) <= 2


def test_a_program_whose_prompt_is_refused_ends_alone():
    class Picky(ScriptedEngine):
        def submit(self, requests, sink):
            if label(requests[0]) == "p1":
                raise ConfigurationError("the prompt is too long")
            super().submit(requests, sink)

    programs = [(SelfConsistency(PROMPT, budget=2, label=f"p{n}"), Even()) for n in range(3)]
    outcomes = {outcome.index: outcome for outcome in run_many(programs, Picky(answers_by_index))}
    assert "too long" in str(outcomes[1].error)
    assert outcomes[0].answer is not None
    assert outcomes[2].answer is not None


def test_a_missing_ability_ends_the_whole_run():
    class Seedless(ScriptedEngine):
        abilities = frozenset(Ability) - {Ability.SEEDS}

    program = SelfConsistency(PROMPT, budget=2, sampling=SamplingParams(seed=1))
    with pytest.raises(UnsupportedError, match="per-request seeds"):
        list(run_many([(program, Even())], Seedless(answers_by_index)))


def test_a_silent_engine_is_a_timeout_and_its_requests_are_cancelled():
    engine = ScriptedEngine(lambda request: Reply(is_held=True))
    with pytest.raises(EngineTimeoutError, match=r"nothing for 0\.05 s"):
        run(SelfConsistency(PROMPT, budget=2), engine, Even(), timeout=0.05)
    assert len(engine.cancelled) == 2


def test_an_engine_that_dies_while_awaited_is_an_error():
    class Dying(ScriptedEngine):
        def check_health(self):
            if self.submitted:
                raise EngineError("the engine died")

    engine = Dying(lambda request: Reply(is_held=True))
    with pytest.raises(EngineError, match="died"):
        run(SelfConsistency(PROMPT, budget=2), engine, Even(), timeout=5)


def test_cancelling_the_task_cancels_the_requests():
    engine = ScriptedEngine(lambda request: Reply(is_held=True))

    async def cancel_soon():
        task = asyncio.create_task(arun(SelfConsistency(PROMPT, budget=3), engine, Even()))
        while not engine.submitted:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_soon())
    assert len(engine.cancelled) == 3


def test_leaving_a_run_of_many_cancels_what_is_in_flight():
    engine = ScriptedEngine(lambda r: Reply(text="\\boxed{1}") if label(r) == "p0" else Reply(is_held=True))
    outcomes = run_many(
        [(SelfConsistency(PROMPT, budget=2, label=f"p{n}"), Even()) for n in range(3)], engine
    )
    assert next(outcomes).index == 0
    outcomes.close()
    assert {key.program_id.partition("#")[0] for key in engine.cancelled} == {"p1", "p2"}


def test_grants_are_reported_as_they_end():
    records = []
    answer = run(
        SelfConsistency(PROMPT, budget=8),
        ScriptedEngine(["\\boxed{1}", "\\boxed{2}"] * 4),
        StaticThreshold(),
        on_grant=records.append,
    )
    assert tuple(records) == answer.trace
    assert [record.units for record in records] == [5, 3]


def test_waves_add_up_and_samples_do_not():
    tokens = iter([3, 9, 4, 2, 5, 7, 1])
    engine = ScriptedEngine(
        lambda request: Reply(text=f"\\boxed{{{request.key.request_id[-1]}}}", num_tokens=next(tokens))
    )
    answer = run(SelfConsistency(PROMPT, budget=7), engine, StaticThreshold())
    assert answer.sequential_tokens == max(3, 9, 4, 2, 5) + max(7, 1)
    assert answer.usage.net_tokens == 31


def test_a_policy_that_grants_beyond_the_cap_is_stopped():
    class Generous:
        name = "generous"

        def allocate(self, knob, trace):
            return Decision(units=knob.maximum + 1)

    with pytest.raises(ProgramError, match=r"generous.*granted 5"):
        run(SelfConsistency(PROMPT, budget=4), ScriptedEngine(answers_by_index), Generous())


def test_a_policy_that_denies_at_once_ends_without_a_sample():
    class Never:
        name = "never"

        def allocate(self, knob, trace):
            return Decision(units=0, stop_reason=StopReason.DENIED)

    with pytest.raises(ProgramError, match="No sample"):
        run(SelfConsistency(PROMPT, budget=4), ScriptedEngine(answers_by_index), Never())


def test_a_program_runs_once():
    program = SelfConsistency(PROMPT, budget=2)
    run(program, ScriptedEngine(answers_by_index), Even())
    with pytest.raises(ProgramError, match="has run already"):
        run(program, ScriptedEngine(answers_by_index), Even())


def test_a_flow_that_waits_for_nothing_is_an_error_not_a_hang():
    class Waiting(FirstOf):
        def execute(self, grant):
            yield ()

    with pytest.raises(ProgramError, match="nothing in flight"):
        run(Waiting(), ScriptedEngine(answers_by_index), Even())


def test_a_key_that_is_in_flight_cannot_be_used_again():
    class Twice(FirstOf):
        def execute(self, grant):
            request = Generate(key=self.key("same"), prompt=PROMPT)
            yield (request, request)

    with pytest.raises(ProgramError, match="in flight already"):
        run(Twice(), ScriptedEngine(answers_by_index), Even())


def test_a_program_can_cancel_one_request_and_go_on():
    class Picking(FirstOf):
        def execute(self, grant):
            first = yield tuple(Generate(key=self.key(f"{n}"), prompt=PROMPT) for n in range(grant))
            second = yield (Cancel(keys=(self.key("1"),)),)
            self.text = f"{first.key.request_id}{second.key.request_id}{second.finish_reason.value}"

    engine = ScriptedEngine(one_ready_others_held)
    assert run(Picking(budget=3), engine, Even()).text == "01cancelled"
    assert len(engine.cancelled) == 2


def test_programs_of_one_label_run_side_by_side_on_one_engine():
    """Default labels once were routing ids, so two programs of one engine got in each other's way."""
    engine = ScriptedEngine(answers_by_index)

    async def both():
        programs = [SelfConsistency(PROMPT, budget=3) for _ in range(2)]
        return await asyncio.gather(*(arun(program, engine, Even()) for program in programs))

    first, second = asyncio.run(both())
    assert first == second
    outcomes = list(run_many([(SelfConsistency(PROMPT, budget=3), Even()) for _ in range(3)], engine))
    assert [outcome.answer for outcome in outcomes] == [first] * 3


def test_a_program_given_twice_runs_once():
    program = SelfConsistency(PROMPT, budget=2)
    engine = ScriptedEngine(answers_by_index)
    outcomes = list(run_many([(program, Even()), (program, Even())], engine))
    assert [outcome.error is None for outcome in sorted(outcomes, key=lambda outcome: outcome.index)] == [
        True,
        False,
    ]


class SlowToUpdate(SelfConsistency):
    """Spends long enough in its own work for a cancellation to fall into it."""

    started = None

    def update_certaindex(self):
        self.started.set()
        time.sleep(0.4)
        super().update_certaindex()


def test_cancelling_a_task_inside_a_step_submits_nothing_more():
    """The step goes on in its thread: its next wave once was submitted after the cancellation, by nobody's leave."""
    engine = ScriptedEngine(["\\boxed{1}", "\\boxed{2}"] * 5)
    program = SlowToUpdate(PROMPT, budget=10)
    program.started = threading.Event()

    async def cancel_inside():
        task = asyncio.create_task(arun(program, engine, StaticThreshold()))
        await asyncio.to_thread(program.started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.8)

    asyncio.run(cancel_inside())
    assert len(engine.submitted) == 5


def test_a_time_limit_around_a_program_is_a_timeout():
    program = SlowToUpdate(PROMPT, budget=10)
    program.started = threading.Event()
    engine = ScriptedEngine(["\\boxed{1}", "\\boxed{2}"] * 5)

    async def limited():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(arun(program, engine, StaticThreshold()), timeout=0.1)

    asyncio.run(limited())


class DeadAfterFailing(ScriptedEngine):
    """Fails its requests and then says why it is dead, as a real engine does."""

    def check_health(self):
        if self.submitted:
            raise EngineError("the engine died: out of memory")


DRIVERS = {
    "run": run,
    "arun": lambda *arguments: asyncio.run(arun(*arguments)),
    "run_many": lambda program, engine, policy: list(run_many([(program, policy)], engine)),
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_dead_engine_is_an_engine_error_not_a_wrong_answer(driver):
    """Its failed completions once ended each program "by its own fault": accuracy 0, no error."""
    engine = DeadAfterFailing(lambda request: Reply(finish_reason=FinishReason.FAILED, error="out of memory"))
    with pytest.raises(EngineError, match="out of memory"):
        DRIVERS[driver](SelfConsistency(PROMPT, budget=2), engine, Even())


def test_an_engine_that_makes_progress_is_slow_and_not_stuck():
    class Slow(ScriptedEngine):
        progress = 0

        def check_health(self):
            Slow.progress += 1
            if Slow.progress > 8:
                self.cancel([request.key for request in self.submitted])

    engine = Slow(lambda request: Reply(text="half", is_held=True))
    assert run(SelfConsistency(PROMPT, budget=2), engine, Even(), timeout=0.05).certaindex.num_paths == 2


def test_tokens_of_a_program_that_ends_with_an_error_are_counted():
    failed = Reply(finish_reason=FinishReason.FAILED, error="oops", num_tokens=7)
    outcomes = list(
        run_many([(SelfConsistency(PROMPT, budget=2), Even())], ScriptedEngine(lambda request: failed))
    )
    assert isinstance(outcomes[0].error, ProgramError)
    assert outcomes[0].usage.net_tokens == 14


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="seconds above 0"):
        run(SelfConsistency(PROMPT, budget=2), ScriptedEngine(answers_by_index), Even(), timeout=timeout)


def test_room_for_no_program_is_refused():
    with pytest.raises(ConfigurationError, match="max_active = 0"):
        list(run_many([], ScriptedEngine([]), max_active=0))


def test_a_completion_of_another_program_moves_nothing():
    class Echo(ScriptedEngine):
        def submit(self, requests, sink):
            stray = Completion(
                key=self.stray_key(requests), finish_reason=FinishReason.EOS, text="\\boxed{9}"
            )
            sink(stray)
            super().submit(requests, sink)

        def stray_key(self, requests):
            from hf_dynasor.core import RequestKey

            return RequestKey(program_id="stranger", request_id=requests[0].key.request_id)

    answer = run(SelfConsistency(PROMPT, budget=2), Echo(["\\boxed{1}"] * 2), Even())
    assert answer.text == "1"
