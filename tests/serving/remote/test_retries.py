"""The schedule of retries: bounded in count and in time, never before the server wants it, the same under a seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.remote import RetryPolicy
from hf_dynasor.serving.remote.failures import read_retry_after

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    max_total_s=st.floats(0, 100),
    base_s=st.floats(0, 10),
    max_delay_s=st.floats(0, 60),
)
waits = st.lists(st.one_of(st.none(), st.floats(0, 50)), min_size=0, max_size=30)


def run(policy, retry_afters, seed):
    """The delays until the policy gives up, each attempt failing at once."""
    rng, elapsed, delays = random.Random(seed), 0.0, []
    for number, retry_after in enumerate([*retry_afters, *[None] * 30], 1):
        delay = policy.find_delay(num_failed=number, elapsed_s=elapsed, retry_after_s=retry_after, rng=rng)
        if delay is None:
            return delays
        delays.append(delay)
        elapsed += delay
    raise AssertionError("it never gave up")


@given(policies, waits, st.integers(0, 99))
def test_attempts_and_time_are_bounded_whatever_the_server_asks_for(policy, retry_afters, seed):
    delays = run(policy, retry_afters, seed)
    assert 1 + len(delays) <= policy.max_attempts
    assert sum(delays) <= policy.max_total_s + 1e-9


@given(policies, waits, st.integers(0, 99))
def test_a_wait_is_never_shorter_than_retry_after_nor_longer_than_the_jitter_allows(policy, waits, seed):
    for number, (delay, asked) in enumerate(
        zip(run(policy, waits, seed), [*waits, *[None] * 30], strict=False)
    ):
        ceiling = min(policy.max_delay_s, policy.base_s * 2.0**number)
        assert (asked or 0) <= delay <= (asked or 0) + ceiling + 1e-9


@given(policies, waits, st.integers(0, 99))
def test_the_same_seed_gives_the_same_waits(policy, waits, seed):
    assert run(policy, waits, seed) == run(policy, waits, seed)


def test_requests_that_failed_together_do_not_come_back_together():
    policy = RetryPolicy()
    delays = {
        policy.find_delay(num_failed=1, elapsed_s=0, retry_after_s=1.0, rng=random.Random(seed))
        for seed in range(20)
    }
    assert len(delays) == 20


@given(st.text(max_size=40))
def test_any_retry_after_is_a_finite_wait_or_none(value):
    found = read_retry_after(value, now=1e9)
    assert found is None or found >= 0


@pytest.mark.parametrize("bad", [{"max_attempts": 0}, {"base_s": -1.0}, {"max_total_s": float("nan")}])
def test_a_policy_that_cannot_work_is_refused_with_its_value(bad):
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        RetryPolicy(**bad)
