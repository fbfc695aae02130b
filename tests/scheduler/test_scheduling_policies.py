"""Scheduling policies: how each one orders, and that nothing but the snapshot decides."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler import SCHEDULING_POLICIES, Ageing, make_scheduling_policy
from hf_dynasor.scheduler.policies import Deadline, GangSjf, order_requests, rank_aged
from hf_dynasor.scheduler.views import ProgramSpec, ProgramView, RequestSpec, RequestView, Snapshot

NEVER = Ageing(max_wait_s=math.inf)


def make_snapshot(programs, now=0.0):
    """Programs as keyword arguments of a view, each with two waiting requests; requests interleave."""
    views = [
        ProgramView(**{"program_id": name, "serial": serial} | fields)
        for serial, (name, fields) in enumerate(programs.items())
    ]
    requests = [
        RequestView(
            key=RequestKey(program_id=view.program_id, request_id=str(index)),
            serial=index * len(views) + view.serial,
            cached_tokens=10 * view.serial,
        )
        for view in views
        for index in range(2)
    ]
    return Snapshot(now=now, programs=tuple(views), requests=tuple(requests))


def order(policy, programs, now=0.0, ageing=NEVER):
    policy = make_scheduling_policy(policy) if isinstance(policy, str) else policy
    keys = order_requests(policy, make_snapshot(programs, now), ageing)
    return " ".join(key.program_id + key.request_id for key in keys)


THREE = {
    "a": {"remaining_tokens": 300.0},
    "b": {"remaining_tokens": 100.0},
    "c": {"remaining_tokens": 200.0},
}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fcfs", "a0 b0 c0 a1 b1 c1"),
        ("lpm", "c0 c1 b0 b1 a0 a1"),
        ("app_fifo", "a0 a1 b0 b1 c0 c1"),
        ("gang", "a0 a1 b0 b1 c0 c1"),
        ("sjf", "b0 b1 c0 c1 a0 a1"),
        ("gang_sjf", "b0 b1 c0 c1 a0 a1"),
        ("fair", "a0 a1 b0 b1 c0 c1"),
        ("deadline", "b0 b1 c0 c1 a0 a1"),
    ],
)
def test_each_policy_orders_three_waiting_programs_its_way(policy, expected):
    assert order(policy, THREE) == expected


def test_a_started_program_comes_first_under_gang_and_counts_less_under_gang_sjf():
    programs = {"a": {"remaining_tokens": 100.0}, "b": {"remaining_tokens": 150.0, "has_started": True}}
    assert order("gang", programs) == "b0 b1 a0 a1"
    assert order(GangSjf(hold=0.0), programs) == order(GangSjf(hold=0.5), programs) == "b0 b1 a0 a1"
    assert order(GangSjf(hold=1.0), programs) == "a0 a1 b0 b1"


def test_of_started_programs_gang_takes_the_one_with_fewest_units_left():
    programs = {
        "a": {"has_started": True, "num_unfinished": 9.0},
        "b": {"has_started": True, "num_unfinished": 2.0},
    }
    assert order("gang", programs) == "b0 b1 a0 a1"


def test_deadline_takes_the_least_slack_and_puts_what_comes_too_late_behind():
    needs = {"remaining_steps": 10.0, "step_seconds": 1.0}
    programs = {
        "loose": needs | {"deadline": 100.0},
        "tight": needs | {"deadline": 20.0},
        "late": needs | {"deadline": 12.0, "remaining_tokens": 1.0},
        "free": needs | {"remaining_tokens": 2.0},
    }
    assert order("deadline", programs, now=5.0) == "tight0 tight1 loose0 loose1 late0 late1 free0 free1"


def test_a_deadline_rank_says_when_it_is_void():
    view = ProgramView(
        program_id="a", serial=0, deadline=30.0, remaining_steps=10.0, step_seconds=2.0, remaining_tokens=7.0
    )
    rank = Deadline().rank(view, None, now=0.0)
    assert rank.valid_until == 10.0
    assert Deadline().rank(view, None, now=9.9) == rank
    assert Deadline().rank(view, None, now=10.0).key > rank.key


def test_weights_divide_work_and_priorities_come_before_it():
    programs = {
        "a": {"remaining_tokens": 300.0, "weight": 4.0},
        "b": {"remaining_tokens": 100.0},
        "c": {"remaining_tokens": 900.0, "priority": 1},
    }
    assert order("gang_sjf", programs) == "c0 c1 a0 a1 b0 b1"


def test_who_waited_too_long_comes_first_by_when_it_was_raised_whatever_the_policy():
    programs = {
        "short": {"remaining_tokens": 1.0, "priority": 9, "waiting_since": 90.0},
        "long": {"remaining_tokens": 999.0, "waiting_since": 40.0},
        "raised": {"remaining_tokens": 998.0, "waiting_since": 95.0, "aged_at": 80.0},
    }
    for name in SCHEDULING_POLICIES:
        found = order(name, programs, now=100.0, ageing=Ageing(max_wait_s=50.0))
        assert found.startswith("raised0 raised1 long0 long1"), name


def test_running_requests_keep_their_places_unless_the_policy_is_preemptive():
    snapshot = make_snapshot(THREE)
    running = RequestView(key=RequestKey(program_id="a", request_id="9"), serial=9, is_running=True)
    snapshot = Snapshot(now=0.0, programs=snapshot.programs, requests=(*snapshot.requests, running))
    assert order_requests(make_scheduling_policy("gang_sjf"), snapshot)[0].request_id == "9"
    assert order_requests(make_scheduling_policy("sjf"), snapshot)[0].program_id == "b"


fields = st.fixed_dictionaries(
    {
        "remaining_tokens": st.sampled_from([0.0, 10.0, 10.5, 300.0]),
        "num_unfinished": st.integers(0, 3).map(float),
        "has_started": st.booleans(),
        "priority": st.integers(0, 1),
        "weight": st.sampled_from([0.5, 1.0]),
        "deadline": st.sampled_from([None, 1.0, 50.0]),
        "remaining_steps": st.sampled_from([0.0, 10.0]),
        "step_seconds": st.sampled_from([0.0, 1.0]),
        "waiting_since": st.sampled_from([None, 0.0, 8.0]),
        "fair_tag": st.sampled_from([0.0, 3.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SCHEDULING_POLICIES)),
    programs=st.lists(fields, min_size=1, max_size=6),
    random=st.randoms(use_true_random=False),
)
def test_the_order_does_not_depend_on_the_order_of_the_snapshot(name, programs, random):
    policy, ageing = make_scheduling_policy(name), Ageing(max_wait_s=5.0)
    snapshot = make_snapshot({f"p{index}-": item for index, item in enumerate(programs)}, now=10.0)
    shuffled = Snapshot(
        now=10.0,
        programs=tuple(random.sample(snapshot.programs, len(snapshot.programs))),
        requests=tuple(random.sample(snapshot.requests, len(snapshot.requests))),
    )
    expected = order_requests(policy, snapshot, ageing)
    assert order_requests(policy, shuffled, ageing) == expected
    assert sorted(expected, key=str) == sorted((r.key for r in snapshot.requests), key=str)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(SCHEDULING_POLICIES)), fields=fields, now=st.floats(0, 100))
def test_a_rank_stays_the_same_until_it_says(name, fields, now):
    policy, ageing = make_scheduling_policy(name), Ageing(max_wait_s=5.0)
    view = ProgramView(program_id="p", serial=0, **fields)
    request = RequestView(key=RequestKey(program_id="p", request_id="0"), serial=0)
    rank = rank_aged(policy, ageing, view, request, now)
    just_before = math.nextafter(min(rank.valid_until, now + 1000), 0)
    if just_before >= now:
        assert rank_aged(policy, ageing, view, request, just_before).key == rank.key


def test_an_unknown_policy_lists_the_known_ones():
    with pytest.raises(
        ConfigurationError, match=r"Unknown scheduling policy 'sfj'\. Known: app_fifo, deadline"
    ):
        make_scheduling_policy("sfj")


@pytest.mark.parametrize(
    "make",
    [
        lambda: GangSjf(hold=1.5),
        lambda: Ageing(max_wait_s=0.0),
        lambda: ProgramSpec(program_id="p", weight=0.0),
        lambda: ProgramSpec(program_id="p", planned_units=0),
        lambda: RequestSpec(key=RequestKey(program_id="p", request_id="0"), prompt_tokens=0),
        lambda: RequestSpec(key=RequestKey(program_id="p", request_id="0"), prompt_tokens=4, shared_tokens=5),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ConfigurationError, match="expected"):
        make()
