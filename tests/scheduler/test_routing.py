"""Routing: each policy's rule, the account of outstanding work, and what stays where it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.scheduler.router import Router
from hf_dynasor.scheduler.routing import (
    ROUTING_POLICIES,
    LeastCost,
    LeastWork,
    PrefixAffinity,
    ReplicaView,
    Routed,
    make_routing_policy,
    name_prefix,
)

NAMES = st.sampled_from(sorted(ROUTING_POLICIES))
VIEWS = st.lists(
    st.builds(
        ReplicaView,
        name=st.text("abcdef", min_size=1, max_size=3),
        num_programs=st.integers(0, 9),
        work=st.floats(0, 1e6),
        cached_tokens=st.integers(0, 100),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda view: view.name,
)
PROGRAMS = st.builds(
    Routed,
    serial=st.integers(0, 1000),
    planned_tokens=st.floats(0, 1e5),
    prefix=st.none() | st.sampled_from(["x", "y"]),
    prefix_tokens=st.integers(0, 100),
)


def make_router(policy="least_work", replicas="ab", **options):
    router = Router(make_routing_policy(policy), **options)
    for name in replicas:
        router.add_replica(name)
    return router


@given(NAMES, PROGRAMS, VIEWS, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_policy_chooses_one_of_the_replicas_and_the_same_for_the_same_dice(name, program, views, seed):
    policy = make_routing_policy(name)
    chosen = policy.choose(program, views, random.Random(seed))
    assert chosen in {view.name for view in views}
    assert chosen == policy.choose(program, views, random.Random(seed))


def test_round_robin_goes_round_and_power_of_two_takes_the_shorter_of_two():
    views = [ReplicaView(name=name, num_programs=number) for number, name in enumerate("abc")]
    rng = random.Random(0)
    robin = make_routing_policy("round_robin")
    assert [robin.choose(Routed(serial=serial), views, rng) for serial in range(4)] == ["a", "b", "c", "a"]
    two = make_routing_policy("power_of_two")
    assert "c" not in {two.choose(Routed(), views, rng) for _ in range(50)}


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30), st.sampled_from("abcd"))
@settings(max_examples=30, deadline=None)
def test_with_prefix_affinity_only_the_beginnings_of_a_lost_replica_move(prefixes, lost):
    policy, rng = PrefixAffinity(), random.Random(0)
    all_views = [ReplicaView(name=name) for name in "abcd"]
    left = [view for view in all_views if view.name != lost]
    for prefix in prefixes:
        before = policy.choose(Routed(prefix=prefix), all_views, rng)
        after = policy.choose(Routed(prefix=prefix), left, rng)
        assert after == before or before == lost


def test_least_cost_follows_a_beginning_until_waiting_costs_more():
    policy, rng = LeastCost(prompt_weight=0.5), random.Random(0)
    program = Routed(prefix="p", prefix_tokens=100)
    idle = ReplicaView(name="idle")
    for work, expected in ((49.0, "warm"), (51.0, "idle")):
        warm = ReplicaView(name="warm", work=work, cached_tokens=100)
        assert policy.choose(program, [warm, idle], rng) == expected
    with pytest.raises(ConfigurationError, match="prompt_weight"):
        LeastCost(prompt_weight=-1)


def test_without_a_beginning_least_cost_is_least_work():
    views = [ReplicaView(name="a", work=3.0), ReplicaView(name="b", work=2.0)]
    rng = random.Random(0)
    assert LeastCost().choose(Routed(), views, rng) == LeastWork().choose(Routed(), views, rng) == "b"


@given(NAMES, st.lists(st.tuples(PROGRAMS, st.none() | st.floats(0, 1e5)), max_size=30))
@settings(max_examples=40, deadline=None)
def test_what_was_begun_and_ended_leaves_no_work(name, programs):
    router = make_router(name, "abc", cache_tokens=150)
    for number, (program, _) in enumerate(programs):
        chosen = router.route(str(number), program)
        assert router.route(str(number), program) == router.find(str(number)) == chosen, "it stays"
    assert router.num_programs == len(programs)
    for number, (_, tokens) in enumerate(programs):
        router.ended(str(number), tokens)
        router.ended(str(number), tokens)  # told twice: counted once
    views = [router.view(name) for name in router.replicas]
    assert [(view.work, view.num_programs) for view in views] == [(0.0, 0)] * 3


def test_work_is_what_programs_of_the_kind_really_took():
    router = make_router(replicas="a")
    for number in range(100):
        router.route(str(number), Routed(kind="short", planned_tokens=100))
        router.ended(str(number), tokens=10)
    router.route("next", Routed(kind="short", planned_tokens=200))
    assert 20 <= router.view("a").work <= 30
    router.route("other", Routed(kind="unknown", planned_tokens=200))
    assert router.view("a").work > 200


def test_a_lost_replica_gives_back_its_programs_and_they_go_elsewhere():
    router = make_router()
    for number in range(4):
        router.route(str(number), Routed(planned_tokens=10))
    lost = router.remove_replica("a")
    assert len(lost) == 2
    assert {router.route(name, Routed()) for name in lost} == {"b"}
    router.remove_replica("b")
    with pytest.raises(EngineError, match="No replica"):
        router.route("x", Routed())


def test_the_oldest_beginnings_are_forgotten_first():
    router = make_router(replicas="a", cache_tokens=100)
    for prefix in ("x", "y", "x", "z"):
        router.route(prefix + str(random.random()), Routed(prefix=prefix, prefix_tokens=40))
    assert [router.view("a", prefix).cached_tokens for prefix in "xyz"] == [40, 0, 40]


def test_an_unknown_policy_lists_those_that_are_known():
    with pytest.raises(ConfigurationError, match="least_cost, least_work, power_of_two"):
        make_routing_policy("fastest")
    assert name_prefix("a") == name_prefix("a") != name_prefix("b")
