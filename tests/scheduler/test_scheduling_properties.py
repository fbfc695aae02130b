"""What holds whatever comes: bounded waits, memory given back, work conserved, decisions that only events change."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.scheduler import SCHEDULING_POLICIES, make_scheduling_policy
from tests.scheduler.kit import Driver, key
from tests.scheduler.test_scheduling_shell import check_budgets, check_conserved, make_scheduler

POLICIES = sorted(SCHEDULING_POLICIES)

LONGEST = 500
"""Steps after which a run is taken for one that starves; those of these tests take up to about 130."""

programs = st.lists(
    st.tuples(
        st.integers(0, 20),  # when it comes
        st.lists(st.integers(1, 9), min_size=1, max_size=4),  # tokens of its requests
        st.integers(-1, 1),  # its priority
    ),
    min_size=1,
    max_size=8,
)


class Timed(Driver):
    """A driver that notes when each request was submitted and when it first ran."""

    def __init__(self, scheduler, checks=()):
        super().__init__(scheduler, checks)
        self.submitted_at, self.started_at, self.arrived_at = {}, {}, {}

    def submit_request(self, program, index, length, *, prompt=8):
        super().submit_request(program, index, length, prompt=prompt)
        self.submitted_at[key(program, index)] = self.now
        self.arrived_at.setdefault(str(program), self.now)

    def step(self):
        before = self.now
        plan = super().step()
        for item in plan.started:
            self.started_at.setdefault(item, before)
        return plan


@settings(max_examples=40, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    programs=programs,
    num_places=st.integers(1, 3),
    max_wait=st.integers(5, 30),
    flood=st.integers(1, 2),
)
def test_every_request_runs_within_the_bound_of_ageing_whatever_comes_later(
    policy, programs, num_places, max_wait, flood
):
    """Short programs of higher priority, with deadlines, come faster than the engine can run them, to the end.

    A request that begins to wait at t runs by t + the longest wait + the work of all programs that were there at t,
    one after another, + what was running when it was raised.
    """
    driver = Timed(make_scheduler(policy, max_requests=num_places, max_wait_s=float(max_wait)))
    waiting, late = sorted(enumerate(programs), key=lambda item: item[1][0]), 0
    while waiting or any(
        name in driver.open and driver.open[name] for name in map(str, range(len(programs)))
    ):
        while waiting and waiting[0][1][0] <= driver.now:
            name, (_, lengths, priority) = waiting.pop(0)
            driver.submit(name, lengths, priority=priority, tenant=str(name % 2))
        for _ in range(flood * num_places):
            late += 1
            driver.submit(
                f"late{late}",
                [1],
                prompt=1 + late % 20,
                priority=5,
                tenant=f"t{late}",
                deadline=driver.now + 3,
            )
        driver.step()
        assert driver.now < LONGEST
    work = {str(name): sum(length + 1 for length in lengths) for name, (_, lengths, _) in enumerate(programs)}
    longest = 1 + max(length for _, lengths, _ in programs for length in lengths)
    for item, since in driver.submitted_at.items():
        if not item.program_id.startswith("late"):
            # Those of the flood that were there at t: each waited no later than this one, and takes one step.
            others = sum(
                1 for name, at in driver.arrived_at.items() if name.startswith("late") and at <= since
            )
            before = sum(work[name] for name, at in driver.arrived_at.items() if name in work and at <= since)
            bound = max_wait + before + others + num_places * longest
            assert driver.started_at[item] - since <= bound, item


@settings(max_examples=30, deadline=None)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 10**6), num_blocks=st.sampled_from([None, 24]))
def test_memory_of_what_is_cancelled_or_given_up_is_free_at_once(policy, seed, num_blocks):
    """At random times requests are cancelled and programs end: only what others hold is held afterwards."""
    rng = random.Random(seed)
    scheduler = make_scheduler(policy, num_blocks=num_blocks)
    driver = Driver(scheduler, (check_budgets, check_conserved))
    for turn in range(60):
        if turn < 12:
            driver.submit(
                turn, [rng.randint(1, 12) for _ in range(rng.randint(1, 4))], prompt=rng.randint(1, 20)
            )
        driver.step()
        alive = [name for name in driver.open if driver.open[name] and name not in driver.finished]
        if alive and rng.random() < 0.3:
            name = rng.choice(alive)
            mine = [
                request
                for request in scheduler.snapshot(driver.now).requests
                if request.key.program_id == name
            ]
            if rng.random() < 0.5 and mine:
                chosen = rng.choice(mine).key
                scheduler.cancelled(chosen, driver.now)
                assert chosen not in {request.key for request in scheduler.snapshot(driver.now).requests}
                driver.open[name] -= 1
            else:
                scheduler.program_finished(name, driver.now)
                driver.open[name] = 0
            assert scheduler.num_blocks_used == count_held(scheduler)
            plan = scheduler.plan_step(driver.now)
            gone = {name} if not driver.open[name] else set()
            assert not gone & {item.program_id for item in plan.decode}
    for name in [name for name in driver.open if name not in driver.finished]:
        scheduler.program_finished(name, driver.now)
    assert scheduler.num_blocks_used == scheduler.num_programs == scheduler.num_waiting == 0
    assert scheduler.plan_step(driver.now).is_empty


def count_held(scheduler):
    """Blocks that the requests and prompts in memory need, counted one by one."""
    page, total, shared = scheduler.limits.page_size, 0, {}
    for record in scheduler._roll.programs.values():
        if record.is_resident:
            shared[record.serial] = record.shared_tokens // page
    for record in scheduler._roll.requests.values():
        if record.is_running or record.state.value == "paused":
            own = record.spec.prompt_tokens - record.num_shared + scheduler.count_generated(record.key)
            total += -(-(own + (record.state.value == "prefilling")) // page)
    return total + sum(shared.values())


@settings(max_examples=30, deadline=None)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 10**6))
def test_the_same_events_give_the_same_plans(policy, seed):
    def run():
        rng = random.Random(seed)
        driver = Driver(make_scheduler(policy, max_wait_s=20.0, num_blocks=30))
        for turn in range(50):
            if turn < 10:
                driver.submit(
                    turn,
                    [rng.randint(1, 9) for _ in range(3)],
                    tenant=str(turn % 2),
                    deadline=driver.now + 40,
                )
            if rng.random() < 0.2:
                entropy = rng.random()
                driver.scheduler.certaindex_updated(
                    str(rng.randrange(10)), Certaindex(entropy=entropy, num_paths=2), driver.now
                )
            driver.step()
        return [plan.to_dict() for plan in driver.plans]

    assert run() == run()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_place_that_becomes_free_is_taken_in_the_next_step(policy):
    driver = Driver(make_scheduler(policy, max_requests=2), (check_conserved,))
    for name in range(5):
        driver.submit(name, [3, 2])
    driver.run()
    # 25 tokens at two places, a prompt yields the first: not a step is wasted but where the last ones are odd.
    assert driver.now <= 25 / 2 + 2


def test_programs_that_were_raised_are_counted_once_each():
    driver = Driver(make_scheduler("gang_sjf", max_requests=1, max_wait_s=5.0))
    driver.submit("running", [30], priority=1)
    for name in "ab":
        driver.submit(name, [2, 2])
    for _ in range(4):
        driver.step()
    assert driver.scheduler.num_raised == 0
    driver.run()
    assert driver.scheduler.num_raised == 2


class CountingPolicy:
    """Counts how many ranks are made."""

    def __init__(self, inner):
        self.inner, self.num_ranks = inner, 0
        self.name, self.ranks_requests, self.is_preemptive = (
            inner.name,
            inner.ranks_requests,
            inner.is_preemptive,
        )

    def rank(self, program, request, now):
        self.num_ranks += 1
        return self.inner.rank(program, request, now)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_event_makes_as_many_ranks_with_5000_waiting_programs_as_with_50(policy):
    """Once what a kind tells has settled: it is told anew after 32 and after 64 ends, and all ranks with it."""
    counts = []
    for num_waiting in (100, 5000):
        counting = CountingPolicy(make_scheduling_policy(policy))
        driver = Driver(make_scheduler(counting, max_requests=2))
        for index in range(num_waiting):
            driver.submit(index, [2])
        for _ in range(40):
            driver.step()
        before = counting.num_ranks
        for _ in range(10):
            driver.step()
        counts.append(counting.num_ranks - before)
    assert counts[0] == counts[1] <= 60
