"""Memory of the scheduler: what is given back, kept, taken under pressure and computed again."""

import pytest

from hf_dynasor.scheduler.policies import Sjf
from tests.scheduler.kit import Driver, key
from tests.scheduler.test_scheduling_shell import make_scheduler


@pytest.mark.parametrize("end", ["program_finished", "cancelled"])
def test_memory_of_a_program_that_ends_is_free_at_once(end):
    driver = Driver(make_scheduler("gang", num_blocks=120, max_requests=4))
    driver.submit("b", [20, 20], prompt=8)
    driver.step()
    alone = driver.scheduler.num_blocks_used
    driver.submit("a", [20, 20], prompt=8)
    driver.step()
    scheduler = driver.scheduler
    assert scheduler.num_blocks_used > alone
    if end == "cancelled":
        for index in (0, 1):
            scheduler.cancelled(key("a", index), driver.now)
    gone = scheduler.program_finished("a", driver.now)
    assert len(gone) == (2 if end == "program_finished" else 0)
    assert scheduler.num_blocks_used == alone
    assert {item.program_id for item in scheduler.plan_step(driver.now).decode} == {"b"}


def test_under_pressure_a_program_without_requests_loses_its_prompt_first():
    driver = Driver(make_scheduler("gang", num_blocks=10, headroom_steps=0))
    driver.submit("idle", [1], prompt=16, planned_units=5)
    driver.open["idle"] = 99  # it will ask for more later, so it does not end
    driver.step()
    driver.step()
    assert driver.scheduler.num_blocks_used == 4
    driver.submit("next", [8], prompt=24)
    plan = driver.step()
    assert plan.evicted == ("idle",)
    assert plan.started == (key("next", 0),)
    driver.run()
    driver.submit_request("idle", 1, 3, prompt=16)
    assert driver.step().num_prefill_tokens == 16  # its prompt is computed again


def test_a_prompt_that_stays_in_memory_is_not_computed_again():
    driver = Driver(make_scheduler("gang"))
    driver.submit("a", [1, 1], prompt=10, planned_units=3)
    driver.open["a"] = 3
    assert driver.step().num_prefill_tokens == 10 + 2  # the second branch shares the two whole blocks
    driver.submit_request("a", 2, 1, prompt=10)
    assert driver.step().num_prefill_tokens == 2


def test_a_request_that_loses_its_memory_computes_what_it_had_again():
    driver = Driver(make_scheduler("fcfs", num_blocks=8, max_requests=2, headroom_steps=0))
    driver.submit("a", [16], prompt=4)
    driver.submit("b", [16], prompt=4)
    driver.run()
    dropped = [item for plan in driver.plans for item in plan.dropped]
    assert set(dropped) == {key("b", 0)}
    again = [chunk for plan in driver.plans for chunk in plan.prefill if chunk.key == key("b", 0)]
    assert [chunk.num_tokens for chunk in again[:2]] == [4, 13]  # its prompt is still there
    assert len(again) == 1 + len(dropped)
    assert set(driver.finished) == {"a", "b"}


def test_a_preempted_request_keeps_its_memory_and_goes_on_without_its_prompt():
    driver = Driver(make_scheduler(Sjf(), max_requests=1))
    driver.submit("long", [40], planned_units=9)
    driver.step()
    driver.step()
    driver.submit("short", [2])
    plan = driver.step()
    assert plan.paused == (key("long", 0),)
    assert plan.started == (key("short", 0),)
    driver.run()
    assert driver.finished["short"] < driver.finished["long"]
    chunks = [chunk for plan in driver.plans for chunk in plan.prefill if chunk.key == key("long", 0)]
    assert len(chunks) == 1


def test_headroom_keeps_requests_from_starting_only_to_lose_their_memory():
    counts = {}
    for headroom in (0, 16):
        driver = Driver(make_scheduler("fcfs", num_blocks=8, max_requests=2, headroom_steps=headroom))
        driver.submit("a", [16], prompt=4)
        driver.submit("b", [16], prompt=4)
        driver.run()
        counts[headroom] = sum(len(plan.dropped) for plan in driver.plans)
    assert counts[16] == 0 < counts[0]
