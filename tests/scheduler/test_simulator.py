"""The simulator: exact on small cases, equal to a step-by-step run, the same for the same seed."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.scheduler import (
    SCHEDULING_POLICIES,
    Ageing,
    Even,
    Limits,
    StaticThreshold,
    make_scheduling_policy,
)
from hf_dynasor.scheduler.simulate import (
    LARGE_MODEL,
    EngineModel,
    Poisson,
    RecordedBranch,
    RecordedQuestion,
    Simulation,
    Workload,
    at_once,
    quantile,
    read_workload,
    write_workload,
)
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram, replay_allocation
from tests.scheduler.step_by_step import run_step_by_step

MILLISECOND_STEPS = EngineModel(base=0.001)
POLICIES = sorted(SCHEDULING_POLICIES)


def make_question(name, lengths, *, groups=None, right=0, prompt=4):
    groups = groups or [0] * len(lengths)
    branches = tuple(
        RecordedBranch(num_tokens=length, group=group, is_correct=group == right)
        for length, group in zip(lengths, groups, strict=True)
    )
    return RecordedQuestion(id=name, prompt_tokens=prompt, branches=branches)


def make_random_workload(seed, *, num_questions=12, budget=6):
    rng = random.Random(seed)
    questions = tuple(
        make_question(
            f"q{index}",
            [rng.randint(1, 30) for _ in range(budget + 2)],
            groups=[rng.choice([0, 0, 0, 1, 2, None]) for _ in range(budget + 2)],
            prompt=rng.randint(1, 40),
        )
        for index in range(num_questions)
    )
    return Workload(name="random", budget=budget, questions=questions)


def make_simulation(workload, policy="gang_sjf", **options):
    defaults = {
        "arrivals": Poisson(rate=40.0),
        "num_programs": 30,
        "allocation": StaticThreshold(thresholds=Thresholds(entropy=0.6), detect_at=3),
        "engine": EngineModel(base=0.002, per_request=1e-4, per_context=1e-6, per_prefill=1e-5),
        "limits": Limits(max_requests=6, max_tokens=48, num_blocks=60, page_size=4, headroom_steps=8),
        "slo_scale": 2.0,
        "slo_base": 0.1,
    }
    return Simulation(workload=workload, scheduling=make_scheduling_policy(policy), **(defaults | options))


def test_two_slots_two_programs_gang_takes_6_5_ms():
    """The paper's example (§4). A prompt of one token is computed with the first token, so 4 tokens are 4 steps."""
    questions = (make_question("P1", [4, 4], prompt=1), make_question("P2", [5, 5], prompt=1))
    workload = Workload(name="example", budget=2, questions=questions)
    for seed in range(20):
        result = make_simulation(
            workload, "gang", arrivals=at_once(2), num_programs=2, allocation=Even(), engine=MILLISECOND_STEPS,
            limits=Limits(max_requests=2), seed=seed,
        ).run()  # fmt: skip
        if result.outcomes[0].question_id == "P1":
            assert [outcome.latency for outcome in result.outcomes] == pytest.approx([0.004, 0.009])
            assert result.mean_latency == pytest.approx(0.0065)
            return
    raise AssertionError("No seed puts P1 first.")


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "deadline"])
def test_jumping_from_event_to_event_gives_the_times_of_a_step_by_step_run(policy):
    """`deadline` is left out: it looks at the engine's pace, whose mean depends on how often it is asked."""
    for seed in range(3):
        simulation = make_simulation(
            make_random_workload(seed), policy, seed=seed, ageing=Ageing(max_wait_s=1.0)
        )
        ends = [outcome.finished_at for outcome in simulation.run().outcomes]
        assert ends == pytest.approx(run_step_by_step(simulation), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 1000))
def test_every_program_ends_once_and_costs_and_answers_the_same_under_every_order(policy, seed):
    workload = make_random_workload(seed)
    result = make_simulation(workload, policy, seed=seed).run()
    first = make_simulation(workload, "fcfs", seed=seed).run()
    assert len(result.outcomes) == 30
    assert result.num_requests == sum(outcome.num_units for outcome in result.outcomes)
    for ours, theirs in zip(result.outcomes, first.outcomes, strict=True):
        assert (ours.num_tokens, ours.is_correct, ours.arrived_at) == (
            theirs.num_tokens,
            theirs.is_correct,
            theirs.arrived_at,
        )
        assert ours.arrived_at <= ours.started_at < ours.finished_at


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_result_and_another_one_another(policy):
    workload = make_random_workload(1)
    first, second, other = (make_simulation(workload, policy, seed=seed).run() for seed in (5, 5, 6))
    assert first == second
    assert json.dumps(first.summary()) == json.dumps(second.summary())
    assert first != other


def test_with_certaindex_an_agreeing_program_stops_at_the_detection_point():
    agreeing = make_question("q", [10] * 6)
    policy = StaticThreshold(detect_at=3)
    workload = Workload(name="one", budget=6, questions=(agreeing,))
    result = make_simulation(workload, num_programs=1, allocation=policy).run()
    assert result.outcomes[0].num_units == 3
    split = make_question("q", [10] * 6, groups=[0, 1, 2, 3, 4, 5])
    workload = Workload(name="one", budget=6, questions=(split,))
    assert make_simulation(workload, num_programs=1, allocation=policy).run().outcomes[0].num_units == 6


def test_a_simulated_program_reads_what_self_consistency_reads():
    """A branch without an answer is a group of its own, and never the majority."""
    question = make_question("q", [5] * 4, groups=[None, None, 1, 2], right=1)
    program = SimulatedProgram(question, question.branches, Even(), "samples")
    for index in program.ask():
        program.note_finished(index)
    assert program.certaindex.entropy == pytest.approx(0.0)
    assert program.trace[-1].groups == (0, 1, 2, 3)
    assert program.is_right()
    silent = make_question("q", [5] * 2, groups=[None, None])
    program = SimulatedProgram(silent, silent.branches, Even(), "samples")
    for index in program.ask():
        program.note_finished(index)
    assert program.certaindex.agreement is None
    assert not program.is_right()


def test_difficulty_comes_from_the_success_of_the_branches():
    makes = {1: [0, 0], 2: [0, 1], 3: [1, 1]}
    for difficulty, groups in makes.items():
        assert make_question("q", [1, 1], groups=groups).difficulty == difficulty


def test_the_oracle_beats_the_estimate_on_programs_of_very_different_length():
    rng = random.Random(3)
    questions = tuple(
        make_question(f"q{index}", [rng.choice([2, 2, 2, 90])] * 4, groups=[0, 1, 2, 3])
        for index in range(20)
    )
    workload = Workload(name="mixed", budget=4, questions=questions)
    options = {"num_programs": 40, "arrivals": at_once(40), "allocation": Even()}
    blind = make_simulation(workload, "sjf", **options).run()
    oracle = make_simulation(workload, "sjf", knows_lengths=True, **options).run()
    first = make_simulation(workload, "fcfs", **options).run()
    assert oracle.mean_latency < 0.8 * first.mean_latency
    assert oracle.mean_latency < blind.mean_latency


def test_a_workload_survives_its_file(tmp_path):
    workload = make_random_workload(2)
    write_workload(workload, tmp_path / "w.json")
    assert read_workload(tmp_path / "w.json") == workload
    for text, words in (("{}", "Not a workload"), ("[]", "holds no workload"), ("x", "not JSON")):
        (tmp_path / "w.json").write_text(text)
        with pytest.raises(InputError, match=words):
            read_workload(tmp_path / "w.json")


def test_impossible_workloads_and_runs_are_refused():
    workload = make_random_workload(0)
    with pytest.raises(InputError, match="lower it"):
        replace(workload, budget=99)
    with pytest.raises(InputError, match="no question"):
        replace(workload, questions=())
    with pytest.raises(ConfigurationError, match="at least 1"):
        make_simulation(workload, num_programs=0)
    with pytest.raises(ConfigurationError, match="above 0"):
        Poisson(rate=0.0)
    with pytest.raises(ConfigurationError, match="were recorded"):
        make_simulation(workload, arrivals=at_once(2), num_programs=3).run()
    with pytest.raises(ConfigurationError, match="base above 0"):
        EngineModel(base=0.0)


def test_quantiles_and_attainment_count_programs():
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 0.9) == 9.0
    result = make_simulation(make_random_workload(4)).run()
    scale = result.tightest_scale(0.1)
    assert result.attainment(scale, 0.1) >= 0.9
    assert result.attainment(scale * 0.999, 0.1) < 0.9


def test_replaying_an_allocation_needs_no_engine_and_costs_what_the_simulation_costs():
    workload = Workload(name="one", budget=3, questions=(make_question("q", [7, 7, 7]),))
    replayed = replay_allocation(workload, Even())
    assert (replayed.accuracy, replayed.num_tokens) == (1.0, 21.0)


def test_many_requests_on_a_large_engine_end_in_bounded_time():
    """20,000 requests; a million take as many times longer, since each costs a logarithm."""
    workload = make_random_workload(7, num_questions=50, budget=20)
    result = make_simulation(
        workload, num_programs=1000, allocation=Even(), engine=LARGE_MODEL, limits=Limits(max_requests=256)
    ).run()
    assert result.num_requests == 20_000
    assert math.isfinite(result.mean_latency)


def test_branches_that_cannot_change_the_vote_are_given_up_and_nothing_is_lost():
    workload = make_random_workload(9)
    options = {"allocation": Even(), "num_programs": 40}
    full = make_simulation(workload, **options).run()
    decided = make_simulation(workload, **options, stop_decided=True).run()
    assert [o.is_correct for o in decided.outcomes] == [o.is_correct for o in full.outcomes]
    assert decided.num_tokens < full.num_tokens
    assert decided.mean_latency < full.mean_latency


def test_a_resumed_request_ends_though_another_prompt_is_under_way():
    """Once the simulator missed the end of a request that went on in the same step as a part of a long prompt."""
    beside = 0

    def look(now, plan):
        nonlocal beside
        prefilled = {chunk.key for chunk in plan.prefill}
        beside += bool(prefilled) and any(key not in prefilled for key in plan.started)

    for seed in range(3):
        simulation = make_simulation(
            make_random_workload(seed, budget=2), "sjf", limits=Limits(max_requests=4, max_tokens=12, page_size=4),
            seed=seed, num_programs=60, allocation=Even(), arrivals=Poisson(rate=60.0), knows_lengths=True,
        )  # fmt: skip
        assert len(simulation.run(look).outcomes) == 60
    assert beside > 10


def test_each_plan_is_told_once_and_preemptions_are_counted_once():
    plans = []
    simulation = make_simulation(
        make_random_workload(0, budget=2), "sjf", num_programs=60, allocation=Even(), knows_lengths=True
    )
    result = simulation.run(lambda now, plan: plans.append(plan))
    assert all(first is not second for first, second in pairwise(plans))
    assert result.num_preemptions == sum(len(plan.paused) + len(plan.dropped) for plan in plans) > 0
