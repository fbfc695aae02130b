"""The scheduler: budgets, conservation, memory, ageing, and that it decides what the pure order says."""

import gc
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.errors import ConfigurationError, EngineError, ProgramError
from hf_dynasor.scheduler import (
    SCHEDULING_POLICIES,
    Ageing,
    ProgramSpec,
    RequestSpec,
    Scheduler,
    make_scheduling_policy,
)
from hf_dynasor.scheduler.policies import GangSjf
from hf_dynasor.scheduler.records import ProgramRecord
from tests.scheduler.kit import Driver, key, list_order, make_limits

POLICIES = sorted(SCHEDULING_POLICIES)
GOLDEN = Path(__file__).parent / "golden_decisions.json"


def make_scheduler(policy="gang_sjf", *, max_wait_s=1e6, **limits):
    policy = make_scheduling_policy(policy) if isinstance(policy, str) else policy
    return Scheduler(policy, limits=make_limits(**limits), ageing=Ageing(max_wait_s=max_wait_s))


def check_budgets(scheduler, plan):
    limits = scheduler.limits
    running = {*plan.decode, *(chunk.key for chunk in plan.prefill)}
    assert len(running) == len(plan.decode) + len(plan.prefill) <= limits.max_requests
    assert plan.num_tokens <= limits.max_tokens
    if limits.num_blocks is not None:
        assert scheduler.num_blocks_used <= limits.num_blocks


def check_conserved(scheduler, plan):
    """No place is empty while something waits, where memory is no limit and tokens are left."""
    if scheduler.limits.num_blocks is None and plan.num_tokens < scheduler.limits.max_tokens:
        assert scheduler.num_running == scheduler.limits.max_requests or not scheduler.num_waiting


def run_random(policy, seed, *, checks=(), num_programs=12, max_wait_s=1e6, **limits):
    """Programs of random sizes that arrive at random; returns the driver at the end."""
    rng = random.Random(seed)
    driver = Driver(make_scheduler(policy, max_wait_s=max_wait_s, **limits), checks)
    submitted = 0
    for _ in range(5000):
        while submitted < num_programs and rng.random() < 0.3:
            lengths = [rng.randint(1, 12) for _ in range(rng.randint(1, 5))]
            deadline = driver.now + rng.randint(5, 60) if rng.random() < 0.5 else None
            tenant, weight = rng.choice([("a", 1.0), ("b", 3.0)])
            driver.submit(
                submitted,
                lengths,
                prompt=rng.randint(1, 20),
                deadline=deadline,
                tenant=tenant,
                weight=weight,
                priority=rng.choice([0, 0, 0, 1]),
            )
            submitted += 1
        if driver.step().is_empty and submitted == num_programs:
            return driver
    raise AssertionError("The programs did not end.")


@settings(max_examples=40, deadline=None)
@given(
    policy=st.sampled_from(POLICIES), seed=st.integers(0, 10**6), num_blocks=st.sampled_from([None, 12, 20])
)
def test_every_program_ends_within_the_budgets_and_no_place_is_wasted(policy, seed, num_blocks):
    driver = run_random(policy, seed, checks=(check_budgets, check_conserved), num_blocks=num_blocks)
    assert len(driver.finished) == 12
    assert driver.scheduler.num_blocks_used == 0
    assert driver.scheduler.num_programs == driver.scheduler.num_waiting == driver.scheduler.num_running == 0


@settings(max_examples=25, deadline=None)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 10**6))
def test_blocks_in_use_are_those_of_the_prompts_and_tokens_that_are_held(policy, seed):
    """Counted from the views, one request at a time, against the ledger that never looks at a request."""

    def check(scheduler, plan):
        page, total, shared = scheduler.limits.page_size, 0, {}
        for record in scheduler._roll.requests.values():
            if record.program.is_resident:
                shared[record.program.serial] = record.program.shared_tokens // page
            if record.is_running or record.state.value == "paused":
                is_new = record.state.value == "prefilling"
                own = record.spec.prompt_tokens - record.num_shared + scheduler.count_generated(record.key)
                total += -(-(own + is_new) // page)
        assert scheduler.num_blocks_used == total + sum(shared.values())

    run_random(policy, seed, checks=(check,), num_blocks=24)


@settings(max_examples=25, deadline=None)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 10**6))
def test_who_starts_is_who_the_pure_order_puts_first(policy, seed):
    """The heap of ranks that are made anew only on change, against all ranks made at once.

    Left out: `lpm`, under which what starts first brings its siblings' prompt into memory within the step, and
    preemptive policies, under which who has a place is part of the order.
    """
    expected = []

    def check(scheduler, plan):
        if not scheduler.policy.is_preemptive and scheduler.policy.name != "lpm":
            assert list(plan.started) == expected[: len(plan.started)]

    driver = Driver(make_scheduler(policy, max_wait_s=15.0), (check,))
    rng = random.Random(seed)
    for turn in range(60):
        if turn < 12:
            lengths = [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]
            driver.submit(turn, lengths, priority=rng.choice([0, 0, 1]))
        expected = list_order(driver.scheduler, driver.now)
        driver.step()


def test_a_program_that_gang_has_started_ends_before_the_next_begins():
    driver = Driver(make_scheduler("gang", max_requests=2))
    for name in "ab":
        driver.submit(name, [3, 3, 3, 3])
    driver.run()
    assert driver.finished["a"] == driver.started["b"]


def test_two_slots_two_programs_gang_takes_6_5_and_interleaving_9():
    """The paper's example (§4): P1 is 2 x 4 ms, P2 is 2 x 5 ms. One step is a millisecond, the prompt's included."""

    def run(policy):
        driver = Driver(make_scheduler(policy, max_requests=2))
        for program in (1, 2):
            driver.scheduler.program_submitted(
                ProgramSpec(program_id=str(program), planned_units=2), driver.now
            )
            driver.open[str(program)] = 2
        for index in (0, 1):  # the requests arrive one by one from both programs
            driver.submit_request(1, index, 4, prompt=1)
            driver.submit_request(2, index, 5, prompt=1)
        driver.run()
        return sum(driver.finished.values()) / 2

    assert run("gang") == run("gang_sjf") == run("app_fifo") == 6.5
    assert run("fcfs") == 9.0


@pytest.mark.parametrize("policy", POLICIES)
def test_no_program_starves_under_adversarial_arrivals(policy):
    """Shorter programs of higher priority arrive faster than the engine can run them, for ever.

    The victim's wait is bounded by what the docstring of `Ageing` says: the maximum wait, and the time for what
    waited before it, alone. What came later never delays it beyond that.
    """
    max_wait = 40.0
    driver = Driver(make_scheduler(policy, max_requests=1, max_wait_s=max_wait))
    before = [[2, 2] for _ in range(5)]
    for index, lengths in enumerate(before):
        driver.submit(f"before{index}", lengths)
    driver.submit("victim", [30, 30], priority=-1, tenant="poor")
    arrived = 0
    while "victim" not in driver.finished:
        for _ in range(2):
            arrived += 1
            driver.submit(
                f"late{arrived}", [1], prompt=1 + 4 * (arrived % 5), priority=5, tenant=str(arrived), deadline=driver.now + 3
            )  # fmt: skip
        driver.step()
        assert driver.now < 1000
    work_before = sum(sum(lengths) for lengths in before)
    running = 30  # at most one request of those that were there
    assert driver.started["victim"] <= max_wait + work_before + running
    # Raised, it keeps its place to its end: both of its requests run without a break.
    assert driver.finished["victim"] <= driver.started["victim"] + 60 + max_wait + work_before


def test_without_ageing_the_same_adversary_starves_the_victim():
    driver = Driver(make_scheduler("sjf", max_requests=1, max_wait_s=float("inf")))
    driver.submit("victim", [30], priority=-1)
    for turn in range(300):
        driver.submit(f"late{turn}", [1], prompt=1)
        driver.step()
    assert "victim" not in driver.started


def test_long_prompts_are_computed_in_parts_within_the_token_budget():
    driver = Driver(make_scheduler("fcfs", max_tokens=8, max_requests=4), (check_budgets,))
    driver.submit("a", [2], prompt=20)
    driver.run()
    assert [plan.num_prefill_tokens for plan in driver.plans[:4]] == [8, 8, 4, 0]


def test_the_same_inputs_give_the_same_decisions_as_ever():
    """The stored decisions of each policy on one run; write them anew with `python -m tests.scheduler.golden`."""
    stored = json.loads(GOLDEN.read_text())
    assert sorted(stored) == POLICIES
    for policy in POLICIES:
        assert make_golden(policy) == stored[policy], policy


def make_golden(policy):
    """Every plan of a run that starts, pauses, drops or evicts, with its number."""
    driver = run_random(policy, 7, num_programs=8, max_wait_s=25.0, num_blocks=16)
    rows = [[step, plan.to_dict()] for step, plan in enumerate(driver.plans)]
    names = ("started", "paused", "dropped", "evicted")
    kept = [[step, {name: row[name] for name in names if name in row}] for step, row in rows]
    return [[step, row] for step, row in kept if row]


def test_a_plan_is_the_same_object_until_something_happens():
    driver = Driver(make_scheduler("gang"))
    driver.submit("a", [9])
    driver.step()
    first = driver.scheduler.plan_step(driver.now)
    driver.scheduler.advance()
    assert driver.scheduler.plan_step(driver.now + 1) is first
    driver.scheduler.certaindex_updated("a", Certaindex(entropy=0.5, num_paths=2), driver.now)
    assert driver.scheduler.plan_step(driver.now + 1) is not first


def test_a_program_that_was_not_announced_is_entered_and_forgotten_when_idle():
    scheduler = make_scheduler("gang", max_idle_s=10.0)
    scheduler.submitted(RequestSpec(key=key("plain", 0), prompt_tokens=4), 0.0)
    scheduler.plan_step(0.0)
    scheduler.advance()
    scheduler.finished(key("plain", 0), 1.0)
    scheduler.plan_step(5.0)
    assert scheduler.num_programs == 1
    scheduler.plan_step(11.0)
    assert scheduler.num_programs == scheduler.num_blocks_used == 0


def test_nothing_is_kept_of_programs_that_ended():
    scheduler = make_scheduler(max_wait_s=5.0, max_idle_s=1e6)
    for index in range(20):
        name, now = f"ended{index}", 10.0 * index
        scheduler.program_submitted(ProgramSpec(program_id=name), now)
        scheduler.submitted(RequestSpec(key=key(name, 0), prompt_tokens=4), now)
        scheduler.plan_step(now)
        scheduler.advance()
        scheduler.finished(key(name, 0), now + 1.0)
        scheduler.program_finished(name, now + 1.0)
    scheduler.plan_step(1_000.0)
    gc.collect()
    names = [thing.spec.program_id for thing in gc.get_objects() if type(thing) is ProgramRecord]
    assert not [name for name in names if name.startswith("ended")]
    assert scheduler.num_programs == 0


def test_weighted_tenants_get_their_shares():
    """Tenant b has three times the weight of a: while both have work, three of four programs that run are b's."""
    driver = Driver(make_scheduler("fair", max_requests=1))
    for index in range(40):
        driver.submit(f"a{index}", [2], tenant="a", weight=1.0)
    for index in range(40):
        driver.submit(f"b{index}", [2], tenant="b", weight=3.0)
    for _ in range(60):
        driver.step()
    shares = [name[0] for name in driver.finished]
    assert shares.count("b") == pytest.approx(3 * shares.count("a"), abs=3)


def test_what_cannot_be_taken_is_refused():
    scheduler = make_scheduler("gang", num_blocks=4, max_waiting=1)
    with pytest.raises(ConfigurationError, match="the memory holds 16 tokens"):
        scheduler.submitted(RequestSpec(key=key("big", 0), prompt_tokens=10, max_tokens=10), 0.0)
    scheduler.submitted(RequestSpec(key=key("a", 0), prompt_tokens=2, max_tokens=2), 0.0)
    with pytest.raises(ConfigurationError, match="was submitted already"):
        scheduler.submitted(RequestSpec(key=key("a", 0), prompt_tokens=2, max_tokens=2), 0.0)
    with pytest.raises(EngineError, match="ask can_admit first"):
        scheduler.submitted(RequestSpec(key=key("a", 1), prompt_tokens=2, max_tokens=2), 0.0)
    with pytest.raises(ProgramError, match="has not ended"):
        scheduler.program_submitted(ProgramSpec(program_id="a"), 0.0)
    with pytest.raises(ProgramError, match="holds for 0 steps more"):
        scheduler.advance()


def test_ends_of_requests_and_programs_that_are_gone_are_ignored():
    scheduler = make_scheduler("gang")
    scheduler.finished(key("gone", 0), 0.0)
    scheduler.cancelled(key("gone", 0), 0.0)
    assert scheduler.program_finished("gone", 0.0) == ()
    scheduler.certaindex_updated("gone", Certaindex(), 0.0)
    assert scheduler.plan_step(0.0).is_empty


def test_a_planned_grant_moves_a_program_in_the_order():
    scheduler = make_scheduler(GangSjf(), max_requests=1)
    for name in ("a", "b"):
        scheduler.program_submitted(ProgramSpec(program_id=name, planned_units=20), 0.0)
        scheduler.submitted(RequestSpec(key=key(name, 0), prompt_tokens=4), 0.0)
    scheduler.grant_planned("b", 1, 0.0)
    assert scheduler.plan_step(0.0).started == (key("b", 0),)
