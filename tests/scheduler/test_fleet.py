"""A fleet of simulated replicas: one is the simulator itself, none loses a program, failures cost what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.scheduler import POLICIES, Limits, make_scheduling_policy
from hf_dynasor.scheduler.routing import ROUTING_POLICIES, make_routing_policy
from hf_dynasor.scheduler.simulate import EngineModel, Poisson, Simulation, at_once, read_workload
from hf_dynasor.scheduler.simulate.fleet import Failure, Fleet, SharedBeginnings

WORKLOAD = read_workload(
    Path(__file__).parents[2] / "benchmarks" / "workloads" / "embedded_self_consistency.json"
)
ENGINE = EngineModel(base=0.02, per_request=1e-3, per_prefill=1e-4, per_context=1e-7)


def make_simulation(rate=2.0, num_programs=60, **options):
    return Simulation(
        workload=WORKLOAD,
        arrivals=Poisson(rate=rate) if rate else at_once(num_programs),
        num_programs=num_programs,
        scheduling=make_scheduling_policy(options.pop("policy", "gang_sjf")),
        allocation=POLICIES["static"](),
        engine=ENGINE,
        limits=Limits(max_requests=16, max_tokens=512, **options.pop("limits", {})),
        **options,
    )


def run_fleet(simulation, num_replicas=3, routing="least_work", **options):
    return Fleet(
        simulation=simulation, num_replicas=num_replicas, routing=make_routing_policy(routing), **options
    ).run()


@given(
    st.sampled_from(["fcfs", "gang_sjf", "sjf", "lpm"]),
    st.sampled_from([None, 0.5, 3.0, 30.0]),
    st.sampled_from([None, 60]),
    st.integers(0, 5),
)
@settings(max_examples=12, deadline=None)
def test_a_fleet_of_one_is_the_simulator(policy, rate, num_blocks, seed):
    simulation = make_simulation(rate, 25, policy=policy, seed=seed, limits={"num_blocks": num_blocks})
    alone = simulation.run()
    fleet = run_fleet(simulation, 1)
    assert fleet.result.outcomes == alone.outcomes
    assert fleet.result.num_steps == alone.num_steps
    assert fleet.result.busy_seconds == pytest.approx(alone.busy_seconds)
    assert fleet.result.num_preemptions == alone.num_preemptions


@pytest.mark.parametrize("routing", sorted(ROUTING_POLICIES))
def test_every_program_ends_once_and_answers_as_on_one_engine(routing):
    simulation = make_simulation(seed=1)
    options = {"routing": routing, "beginnings": SharedBeginnings(number=5, tokens=200)}
    fleet = run_fleet(simulation, **options)
    assert fleet.summary() == run_fleet(simulation, **options).summary(), (
        "the same seed gives the same figures"
    )
    alone = simulation.run()
    assert [each.arrived_at for each in fleet.result.outcomes] == [each.arrived_at for each in alone.outcomes]
    assert fleet.result.num_tokens == pytest.approx(alone.num_tokens, rel=0.2)
    assert sum(each.num_requests for each in fleet.replicas) == fleet.result.num_requests


def test_more_replicas_are_not_slower():
    simulation = make_simulation(rate=6.0, num_programs=120)
    latencies = [run_fleet(simulation, number).result.mean_latency for number in (1, 2, 4)]
    assert latencies == sorted(latencies, reverse=True)


def test_work_is_spread_more_evenly_than_by_dice():
    simulation = make_simulation(rate=6.0, num_programs=200)
    random, least = (run_fleet(simulation, 4, name).result.mean_latency for name in ("random", "least_work"))
    assert least < random


def test_beginnings_are_found_where_they_were_sent():
    simulation = make_simulation(rate=4.0, num_programs=200)
    beginnings = SharedBeginnings(number=12, tokens=400, skew=0.0, cache_tokens=6 * 400)
    rates = {
        name: run_fleet(simulation, 4, name, beginnings=beginnings).hit_rate
        for name in ("round_robin", "prefix_affinity", "least_cost")
    }
    assert rates["prefix_affinity"] > 0.9 > rates["round_robin"]
    assert rates["least_cost"] > rates["round_robin"]


def test_a_failure_loses_no_program_and_costs_what_was_done():
    simulation = make_simulation(rate=4.0, num_programs=120)
    calm = run_fleet(simulation)
    failed = run_fleet(simulation, failures=(Failure(replica=1, at=10.0, detected_s=2.0, repaired_s=8.0),))
    assert len(failed.result.outcomes) == len(calm.result.outcomes)
    assert failed.num_restarted > 0
    assert failed.num_lost_tokens > 0
    assert failed.result.mean_latency > calm.result.mean_latency
    assert failed.result.accuracy == pytest.approx(calm.result.accuracy, abs=0.05)
    assert failed.replicas[1].num_requests < calm.replicas[1].num_requests


def test_without_any_replica_left_it_says_so():
    with pytest.raises(EngineError, match="No replica"):
        run_fleet(make_simulation(), 1, failures=(Failure(replica=0, at=1.0),))


def test_what_cannot_be_is_refused():
    simulation = make_simulation()
    with pytest.raises(ConfigurationError, match="num_replicas"):
        run_fleet(simulation, 0)
    with pytest.raises(ConfigurationError, match="failure of replica 7"):
        run_fleet(simulation, failures=(Failure(replica=7, at=1.0),))
    with pytest.raises(ConfigurationError, match="detected_s"):
        Failure(replica=0, at=0.0, detected_s=9.0, repaired_s=1.0)
    with pytest.raises(ConfigurationError, match="beginning"):
        replace(SharedBeginnings(), number=0)
