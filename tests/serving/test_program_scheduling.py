"""Scheduling of programs in the real engine: every policy, the simulator's decisions, waits, pages, and what is told."""

from __future__ import annotations

import random
import threading

import pytest

from hf_dynasor import drivers
from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.program_plan import ProgramPlan, ProgramTerms, SchedulesPrograms
from hf_dynasor.scheduler import (
    SCHEDULING_POLICIES,
    Ageing,
    Even,
    Limits,
    Scheduler,
    StaticThreshold,
    make_scheduling_policy,
)
from hf_dynasor.scheduler.simulate import (
    EngineModel,
    RecordedBranch,
    RecordedQuestion,
    Simulation,
    Workload,
    at_once,
)
from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel, make_engine
from hf_dynasor.serving.http.program_runs import WatchedEngine
from hf_dynasor.serving.http.supervisor import SupervisedEngine
from hf_dynasor.serving.program_scheduling import Computed, ProgramScheduling
from hf_dynasor.testing import Reply, ScriptedEngine, VirtualClock
from tests.serving.kit import Collector, ask, generate_plainly
from tests.serving.test_continuous_engine import wait_until_free

POLICIES = sorted(SCHEDULING_POLICIES)


class StepClock:
    """Time in forwards of the engine. The engine's thread waits at the gate; then `turn` is called there."""

    def __init__(self):
        self.engine = None
        self.gate, self.is_there = threading.Event(), threading.Event()
        self.turn = lambda: None
        self._is_busy = False

    def now(self):
        if self.engine is not None and threading.current_thread() is self.engine.thread:
            self.is_there.set()
            assert self.gate.wait(60)
            if not self._is_busy:
                self._is_busy = True
                self.turn()
                self._is_busy = False
        return 0.0 if self.engine is None else float(self.engine.progress)


def open_engine(loaded, policy, **options):
    """An engine that stands still, with one request in it, until the gate of its clock is opened."""
    clock = StepClock()
    engine = ContinuousBatchingEngine(loaded, scheduler=policy, clock=clock, **options)
    clock.engine = engine
    engine.submit([ask([3], "first", program="blocker", max_new_tokens=1)], lambda event: None)
    assert clock.is_there.wait(60)
    return engine, clock


def make_requests(program, lengths, *, prompt=40):
    """Equal prompts, longer than two pages; each generates exactly its length."""
    ids = [5 + (7 * ord(program[0]) + 11 * index) % 200 for index in range(prompt)]
    return [
        ask(ids, str(index), program=program, max_new_tokens=length, ignore_eos=True)
        for index, length in enumerate(lengths)
    ]


class Ends(Collector):
    """Tells an engine that a program is over when all of its requests are, from the engine's own thread."""

    def __init__(self, engine, counts):
        super().__init__()
        self.engine, self.counts = engine, dict(counts)
        self.order = []

    def __call__(self, event):
        super().__call__(event)
        self.order.append(event.key)
        program = event.key.program_id
        self.counts[program] -= 1
        if not self.counts[program]:
            self.engine.note_end(program)


def run_all(engine, clock, programs, **plan):
    """Submit programs {name: lengths} while the engine stands still, run them; returns the sink."""
    ends = Ends(engine, {name: len(lengths) for name, lengths in programs.items()})
    for name, lengths in programs.items():
        engine.note_program(name, ProgramPlan(kind="sc", planned_units=len(lengths), **plan))
        engine.submit(make_requests(name, lengths), ends)
    clock.gate.set()
    ends.wait(sum(map(len, programs.values())))
    return ends


def draw_programs(seed, num_programs=6, num_requests=4):
    rng = random.Random(seed)
    return {chr(97 + i): [rng.randint(2, 14) for _ in range(num_requests)] for i in range(num_programs)}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once_with_the_tokens_that_it_has_alone(loaded: LoadedModel, policy: str) -> None:
    """Programs of several priorities and deadlines at three places: under preemptive policies some are interrupted."""
    rng = random.Random(policy)
    requests = [
        ask(
            [9 + 5 * program] * 20 + [4], f"{index}", program=f"p{program}", max_new_tokens=rng.randint(2, 24)
        )
        for index in range(3)
        for program in range(4)
    ]
    engine, clock = open_engine(loaded, policy, max_batch_requests=3)
    with engine:
        collector = Collector()
        for program in range(4):
            terms = ProgramTerms(priority=program % 2, deadline_s=1000.0 - program, tenant=str(program))
            engine.note_program(f"p{program}", ProgramPlan(kind="sc", planned_units=3 + program, terms=terms))
        engine.submit(requests, collector)
        clock.gate.set()
        done = collector.wait(len(requests))
        for request in requests:
            ids = list(request.prompt.segments[0].ids)  # type: ignore[union-attr]
            expected = generate_plainly(loaded, ids, request.sampling.max_new_tokens)
            assert done[request.key].token_ids == expected
        assert collector.num_completions == len(requests)
        assert wait_until_free(engine).free == engine.count_pages().total


@pytest.mark.parametrize("policy", POLICIES)
def test_the_engine_decides_what_the_simulator_decides(loaded: LoadedModel, policy: str) -> None:
    """Same programs, lengths and places, a step is a second in both: the same plan at every time."""
    programs = draw_programs(policy)
    workload = Workload(
        name="sc",
        budget=4,
        questions=tuple(
            RecordedQuestion(
                id=name,
                prompt_tokens=40,
                branches=tuple(
                    RecordedBranch(num_tokens=length, group=0, is_correct=True) for length in lengths
                ),
            )
            for name, lengths in programs.items()
        ),
    )
    expected = []
    Simulation(
        workload=workload,
        arrivals=at_once(len(programs)),
        num_programs=len(programs),
        scheduling=make_scheduling_policy(policy),
        allocation=Even(),
        engine=EngineModel(base=1.0),
        limits=Limits(max_requests=5, max_tokens=512),
        ageing=Ageing(max_wait_s=30.0),
        keeps_order=True,
        siblings_wait=True,
    ).run(lambda now, plan: expected.append((now, list_moves(plan, "abcdef"))))
    engine, clock = open_engine(loaded, policy, max_batch_requests=5, ageing=Ageing(max_wait_s=30.0))
    seen = []
    with engine:
        engine.scheduling.scheduler.estimator.prior_tokens = workload.mean_branch_tokens
        engine.scheduling.on_plan = lambda now, plan: seen.append((now - 1.0, list_moves(plan)))
        run_all(engine, clock, programs)
    assert seen[0] == (-1.0, [[("blocker", "first")], []])
    assert seen[1:] == expected
    assert any(paused for _, (_, paused) in seen) == (policy in ("sjf", "deadline"))


def list_moves(plan, names=None):
    """Who starts and who pauses; the simulator calls programs by their number."""
    return [
        [(names[int(key.program_id)] if names else key.program_id, key.request_id) for key in keys]
        for keys in (plan.started, plan.paused)
    ]


def list_program_ends(ends):
    last = {}
    for place, key in enumerate(ends.order):
        last[key.program_id] = place
    return sorted(last, key=last.get)


def test_gang_ends_what_it_began_and_first_come_interleaves(loaded: LoadedModel) -> None:
    """Two places, two programs whose requests arrive in turn."""
    starts = {}
    for policy in ("gang", "fcfs"):
        engine, clock = open_engine(loaded, policy, max_batch_requests=2)
        order: list[str] = []
        with engine:
            engine.scheduling.on_plan = lambda now, plan, order=order: order.extend(
                key.program_id for key in plan.started
            )
            collector = Collector()
            for name in "ab":
                engine.note_program(name, ProgramPlan(kind="sc", planned_units=4))
            pairs = zip(make_requests("a", [6] * 4), make_requests("b", [6] * 4), strict=True)
            engine.submit([request for pair in pairs for request in pair], collector)
            clock.gate.set()
            collector.wait(8)
        starts[policy] = "".join(order[1:])
    assert starts == {"gang": "aaaabbbb", "fcfs": "abababab"}


def test_a_nearly_certain_program_goes_before_one_that_will_ask_for_more(loaded: LoadedModel) -> None:
    """The engine has seen that certain programs of the kind ask for nothing more, and uncertain ones for all."""
    engine, clock = open_engine(loaded, "gang_sjf", max_batch_requests=1)
    sure, unsure = Certaindex(entropy=1.0, num_paths=2), Certaindex(entropy=0.0, num_paths=2)
    order: list[str] = []
    with engine:
        scheduler = engine.scheduling.scheduler
        history = scheduler.estimator.history("sc")
        for _ in range(64):
            history.note_decision(sure, 0.0)
            history.note_decision(unsure, 1.0)
        engine.scheduling.on_plan = lambda now, plan: order.extend(key.program_id for key in plan.started)
        collector = Collector()
        for name, reading in (("unsure", unsure), ("zure", sure)):
            engine.note_program(name, ProgramPlan(kind="sc", planned_units=20))
            engine.submit(make_requests(name, [3, 3]), collector)
            plan = ProgramPlan(kind="sc", planned_units=20, granted_units=2, certaindex=reading)
            engine.note_program(name, plan)
        clock.gate.set()
        collector.wait(4)
    assert order[1:] == ["zure", "zure", "unsure", "unsure"]


def test_paused_requests_lose_their_pages_when_the_cache_is_full_and_still_end_right(
    loaded: LoadedModel,
) -> None:
    """A long request is interrupted by shorter programs that need all pages: it is computed again."""
    long = ask([7] * 30, "long", program="long", max_new_tokens=110, ignore_eos=True)
    engine, clock = open_engine(loaded, "sjf", max_batch_requests=1, num_blocks=12)
    with engine:
        collector = Collector()
        engine.note_program("long", ProgramPlan(kind="long", planned_units=9))
        engine.submit([long], collector)
        shorts = [
            ask([20 + index] * 60, "0", program=f"s{index}", max_new_tokens=60, ignore_eos=True)
            for index in range(3)
        ]

        def send_late() -> None:
            if shorts and engine.num_tokens_drawn > 60:
                request = shorts.pop()
                plan = ProgramPlan(kind="short", planned_units=1)
                engine.note_program(request.key.program_id, plan)
                engine.submit([request], collector)

        clock.turn = send_late
        clock.gate.set()
        done = collector.wait(4)
        lost = engine.scheduling.num_lost
        expected = generate_plainly(loaded, [7] * 30, 110)
        assert done[long.key].token_ids[: len(expected)] == expected
        assert [done[key].finish_reason for key in done] == [FinishReason.LENGTH] * 4
        assert wait_until_free(engine).free == 12
    assert lost >= 1


def test_pages_of_a_paused_request_that_is_cancelled_are_free_at_the_next_step(loaded: LoadedModel) -> None:
    engine, clock = open_engine(loaded, "sjf", max_batch_requests=1, num_blocks=64)
    with engine:
        collector = Collector()
        engine.note_program("long", ProgramPlan(kind="long", planned_units=50))
        engine.submit(make_requests("long", [200]), collector)
        used = {}

        def act() -> None:
            """Interrupt the long one by a short one, then cancel the long one while it is paused."""
            pages = engine.count_pages()
            step = engine.progress
            if step == 30 and "short" not in used:
                used["short"] = pages.total - pages.free
                engine.note_program("short", ProgramPlan(kind="short", planned_units=1))
                engine.submit(make_requests("short", [40]), collector)
            elif step == 45 and "cancelled" not in used:
                used["cancelled"] = pages.total - pages.free
                engine.note_end("long")
                engine.cancel([make_requests("long", [200])[0].key])
            elif step == 47 and "after" not in used:
                used["after"] = pages.total - pages.free

        clock.turn = act
        clock.gate.set()
        done = collector.wait(2)
        assert sorted(item.finish_reason.value for item in done.values()) == ["cancelled", "length"]
        assert used["short"] >= 4
        assert used["after"] <= used["cancelled"] - 3
        assert wait_until_free(engine).free == 64
        assert "long" not in {
            program.program_id for program in engine.scheduling.scheduler.snapshot(0.0).programs
        }


@pytest.mark.parametrize("max_wait", [40.0, float("inf")])
def test_ageing_bounds_the_wait_of_a_program_that_shorter_ones_overtake(
    loaded: LoadedModel, max_wait: float
) -> None:
    """One place; two short programs always wait. Without ageing the long one would wait as long as they come."""
    engine, clock = open_engine(loaded, "sjf", max_batch_requests=1, ageing=Ageing(max_wait_s=max_wait))
    with engine:
        collector, counts = Collector(), {"sent": 0}
        engine.note_program("victim", ProgramPlan(kind="sc", planned_units=20))
        (victim,) = make_requests("victim", [12])
        engine.submit([victim], collector)

        def keep_busy() -> None:
            while engine.num_in_flight < 4 and counts["sent"] < 60:
                name = f"s{counts['sent']}"
                counts["sent"] += 1
                engine.note_program(name, ProgramPlan(kind="sc", planned_units=1))
                engine.submit(make_requests(name, [4]), collector)

        clock.turn = keep_busy
        starts = {}
        engine.scheduling.on_plan = lambda now, plan: starts.update(
            {key: now for key in plan.started if key not in starts}
        )
        keep_busy()
        clock.gate.set()
        while victim.key not in collector.completions:
            collector.take()
        if max_wait == 40.0:
            assert (
                starts[victim.key] <= 1 + max_wait + 4
            )  # what ran when it was raised took a place for 4 steps
            assert counts["sent"] < 60
        else:
            assert counts["sent"] == 60


# --- what programs tell --------------------------------------------------------------------------------------------


class TellingEngine(ScriptedEngine):
    """A scripted engine that hears of programs."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.notes = []

    def note_program(self, program_id, plan):
        self.notes.append((plan.granted_units, plan.certaindex is not None, plan.terms.priority))

    def note_end(self, program_id):
        self.notes.append("end")


def make_program(budget=6):
    from hf_dynasor import Recipe

    return Recipe(budget=budget, policy="static", seed=None, detect_at=2).build("What is 1+1?")[0]


@pytest.mark.parametrize("driver", ["run", "arun", "run_many"])
def test_every_driver_tells_where_a_program_stands_and_that_it_ended(driver: str) -> None:
    engine = TellingEngine(lambda request: Reply(text=f"\\boxed{{{int(request.key.request_id[-1]) % 2}}}"))
    assert isinstance(engine, SchedulesPrograms)
    program, policy, terms = make_program(), StaticThreshold(detect_at=2), ProgramTerms(priority=3)
    if driver == "run":
        drivers.run(program, engine, policy, terms=terms)
    elif driver == "arun":
        import asyncio

        asyncio.run(drivers.arun(program, engine, policy, terms=terms))
    else:
        list(drivers.run_many([(program, policy)], engine, terms=terms))
    assert engine.notes[:3] == [(0, False, 3), (2, True, 3), (6, True, 3)]
    assert set(engine.notes[3:]) == {"end"}


def test_a_program_that_is_given_up_is_told_to_have_ended() -> None:
    from hf_dynasor.program_run import ProgramRun

    engine = TellingEngine(lambda request: Reply(is_held=True))
    with ProgramRun(make_program(), engine, Even(), lambda event: None) as program_run:
        program_run.start()
    assert engine.notes == [(0, False, 0), "end"]


def test_wrapped_engines_pass_on_what_programs_tell() -> None:
    engine = TellingEngine(lambda request: Reply(text="\\boxed{1}"))
    with_supervisor = SupervisedEngine(lambda: engine)
    try:
        watched = WatchedEngine(with_supervisor, lambda event: None)
        drivers.run(make_program(), watched, Even())
    finally:
        with_supervisor.close()
    assert engine.notes[:2] == [(0, False, 0), (6, True, 0)]


def test_what_cannot_be_scheduled_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ConfigurationError, match="gang_sjf"):
        ContinuousBatchingEngine(loaded, scheduler="shortest")
    with pytest.raises(ConfigurationError, match="schedules no programs"):
        make_engine(loaded, engine="generate", scheduler="gang")
    with pytest.raises(ConfigurationError, match="max_batch_requests = 0"):
        ContinuousBatchingEngine(loaded, max_batch_requests=0)
    with make_engine(loaded, scheduler="gang") as engine:  # type: ignore[attr-defined]
        assert engine.scheduling.scheduler.policy.name == "gang"
    with pytest.raises(ConfigurationError, match="deadline_s"):
        ProgramTerms(deadline_s=0.0)
    with pytest.raises(ConfigurationError, match="planned_units"):
        ProgramPlan(kind="sc", planned_units=2, granted_units=3)


# --- the adapter alone ---------------------------------------------------------------------------------------------


def make_scheduling(policy="gang_sjf"):
    scheduler = Scheduler(make_scheduling_policy(policy), limits=Limits(max_requests=2, max_tokens=64))
    return ProgramScheduling(scheduler, VirtualClock())


def enqueue(scheduling, name, program):
    scheduling.enqueue(name, ask("x", name, program=program).key, 8, 16)


def run_step(scheduling):
    names = scheduling.choose()
    scheduling.note_run([Computed(name=name, num_tokens=8, is_last=True) for name in names])
    return names


def test_a_request_of_a_program_that_tells_nothing_is_scheduled_and_forgotten() -> None:
    scheduling = make_scheduling()
    enqueue(scheduling, "r0", "plain")
    assert run_step(scheduling) == ["r0"]
    scheduling.finished("r0", 3)
    assert scheduling.scheduler.num_programs == 0


def test_the_end_of_a_program_waits_for_its_requests() -> None:
    scheduling = make_scheduling()
    scheduling.note_program("p", ProgramPlan(kind="sc", planned_units=4))
    enqueue(scheduling, "r0", "p")
    run_step(scheduling)
    scheduling.note_end("p")
    assert run_step(scheduling) == ["r0"]  # it is not lost
    scheduling.finished("r0", 3)
    assert scheduling.scheduler.num_programs == 0


def test_a_step_that_leaves_a_prompt_out_plans_it_again() -> None:
    scheduling = make_scheduling()
    for name in ("r0", "r1"):
        enqueue(scheduling, name, name)
    assert scheduling.choose() == ["r0", "r1"]
    scheduling.note_run([Computed(name="r0", num_tokens=8, is_last=True)])
    assert scheduling.choose() == ["r0", "r1"]
    assert [chunk.key.request_id for chunk in scheduling.scheduler.plan_step(0.0).prefill] == ["r1"]


def test_programs_whose_unit_is_no_request_are_planned_at_their_own_rate() -> None:
    """A chain of 1,000 tokens makes requests, not tokens: after 100 tokens and 2 requests it will make 20 in all."""
    scheduling = make_scheduling()
    plan = ProgramPlan(kind="chain", unit="tokens", planned_units=1000)
    scheduling.note_program("p", plan)
    enqueue(scheduling, "r0", "p")
    assert read_units(scheduling) == 1.0
    enqueue(scheduling, "r1", "p")
    scheduling.note_program(
        "p", ProgramPlan(kind="chain", unit="tokens", planned_units=1000, granted_units=100)
    )
    run_step(scheduling)
    assert read_units(scheduling) == 20.0


def test_a_prediction_is_taken_at_its_word() -> None:
    scheduling = make_scheduling()
    scheduling.note_program("p", ProgramPlan(kind="sc", planned_units=20))
    for index in range(5):
        enqueue(scheduling, f"r{index}", "p")
    plan = ProgramPlan(
        kind="sc", planned_units=20, granted_units=5, predicted_units=2, certaindex=Certaindex(entropy=0.5)
    )
    scheduling.note_program("p", plan)
    run_step(scheduling)
    assert read_units(scheduling) == 7.0


def read_units(scheduling):
    (program,) = scheduling.scheduler.snapshot(0.0).programs
    return program.num_unfinished


def test_notes_that_nobody_hears_are_bounded() -> None:
    scheduling = make_scheduling()
    for _ in range(1000):
        scheduling.note_program("p", ProgramPlan(kind="sc"))
    assert len(scheduling._notes["p"]) <= 64
    scheduling.note_end("p")
    assert not scheduling._notes
