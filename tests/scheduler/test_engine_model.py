"""What the simulator is made of: arrivals, the engine that is a formula, and its fit to measured steps."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.errors import InputError
from hf_dynasor.scheduler.simulate import (
    Bursts,
    EngineModel,
    Poisson,
    RecordedArrivals,
    StepRow,
    fit_engine,
    read_step_rows,
)


def test_arrivals_have_their_rates():
    for arrivals in (Poisson(rate=4.0), Bursts(rate=4.0, size=5)):
        times = arrivals.draw(4000, random.Random(0))
        assert times == sorted(times)
        assert times[-1] == pytest.approx(1000, rel=0.1)
    assert len(set(Bursts(rate=1.0, size=5).draw(20, random.Random(0)))) == 4
    assert RecordedArrivals(times=(0.0, 2.0, 3.0)).draw(2, random.Random(0)) == [0.0, 2.0]


def test_poisson_at_another_rate_is_the_same_sequence_scaled():
    slow, fast = (Poisson(rate=rate).draw(9, random.Random(1)) for rate in (1.0, 4.0))
    assert [time / 4 for time in slow] == pytest.approx(fast)


@given(
    batch=st.integers(1, 300),
    context=st.integers(0, 10**6),
    seconds=st.floats(0, 1000),
    per_context=st.sampled_from([0.0, 1e-9, 1e-6]),
)
def test_steps_until_a_time_are_the_fewest_that_reach_it(batch, context, seconds, per_context):
    model = EngineModel(base=0.01, per_request=1e-4, per_context=per_context, free_requests=8)
    steps = model.count_steps(batch, context, seconds, 10**7)
    assert model.time_steps(batch, context, steps) >= seconds * (1 - 1e-9)
    if steps > 1:
        assert model.time_steps(batch, context, steps - 1) < seconds * (1 + 1e-9)
    single = sum(model.time_step(batch, context + batch * step) for step in range(20))
    assert model.time_steps(batch, context, 20) == pytest.approx(single)


@pytest.mark.parametrize("knee", [0, 16])
def test_a_fit_finds_the_costs_that_the_steps_were_made_with(knee):
    true = EngineModel(base=0.02, per_request=3e-4, per_context=2e-7, per_prefill=5e-5, free_requests=knee)
    rng = random.Random(0)
    rows = []
    for _ in range(80):
        num_requests, context, prompt = rng.randint(1, 128), rng.randint(0, 90_000), rng.choice([0, 0, 300])
        seconds = true.time_step(num_requests, context, prompt) * rng.uniform(0.98, 1.02)
        rows.append(
            StepRow(
                num_requests=num_requests,
                num_context_tokens=context,
                num_prefill_tokens=prompt,
                seconds=seconds,
            )
        )
    fit = fit_engine(rows)
    assert fit.model.free_requests == knee
    assert fit.mean_error < 0.02
    for name in ("base", "per_request", "per_context", "per_prefill"):
        assert getattr(fit.model, name) == pytest.approx(getattr(true, name), rel=0.1), name


def test_a_fit_never_has_a_negative_cost():
    rows = [
        StepRow(num_requests=n, num_context_tokens=0, num_prefill_tokens=0, seconds=0.05 - 1e-4 * n)
        for n in range(1, 20)
    ]
    model = fit_engine(rows, saturating=False).model
    assert model.per_request == 0.0
    assert model.base == pytest.approx(0.049, rel=0.02)


def test_steps_are_read_from_a_file(tmp_path):
    row = {"num_requests": 2, "num_context_tokens": 9, "num_prefill_tokens": 0, "seconds": 0.5}
    path = tmp_path / "steps.jsonl"
    path.write_text(json.dumps(row) + "\n\n")
    assert read_step_rows(path) == [StepRow(**row)]
    path.write_text('{"requests": 2}\n')
    with pytest.raises(InputError, match="no file of measured steps"):
        read_step_rows(path)
    with pytest.raises(InputError, match="Cannot read"):
        read_step_rows(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match="at least 8"):
        fit_engine([StepRow(**row)])
