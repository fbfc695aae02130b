"""Every row is drawn by its own settings and its own seed."""

from __future__ import annotations

import math

import pytest
import torch

from hf_dynasor.core import SamplingParams
from hf_dynasor.errors import EngineError
from hf_dynasor.serving import sampling
from hf_dynasor.serving.sampling import RowSampler, draw_tokens

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -1.5])


def draw(count: int, logits: torch.Tensor = LOGITS, **params: object) -> list[int]:
    """Tokens of `count` rows with seeds 0, 1, 2, ..."""
    samplers = [RowSampler(SamplingParams(seed=seed, **params)) for seed in range(count)]
    return draw_tokens(logits.repeat(count, 1), samplers).tokens


def chi_square(tokens: list[int], probs: torch.Tensor) -> float:
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probs)).double()
    expected = probs.double() * len(tokens)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    """Seeds are fixed, so the test cannot flicker; for a random seed the false-alarm probability would be 1e-6
    (chi-square with 5 degrees of freedom exceeds 35.9)."""
    tokens = draw(20_000, temperature=temperature)
    assert chi_square(tokens, torch.softmax(LOGITS / temperature, 0)) < 35.9


def test_one_seed_draws_independently_from_step_to_step() -> None:
    """False-alarm probability 1e-6 for a random seed, as above."""
    sampler = RowSampler(SamplingParams(seed=7))
    tokens = [draw_tokens(LOGITS[None], [sampler]).tokens[0] for _ in range(20_000)]
    assert chi_square(tokens, torch.softmax(LOGITS, 0)) < 35.9


def test_top_k_keeps_the_likeliest_tokens_with_their_proportions() -> None:
    """False-alarm probability 1e-6 for random seeds (2 degrees of freedom, 27.7)."""
    probs = torch.softmax(LOGITS[:3], 0)
    assert chi_square(draw(20_000, top_k=3), torch.cat([probs, torch.zeros(3)])) < 27.7


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """Probabilities are .56 .21 .13 .08 .03 .02: 0.7 needs two tokens, 0.55 needs one."""
    assert set(draw(2_000, top_p=0.7)) == {0, 1}
    assert set(draw(2_000, top_p=0.55)) == {0}


def test_top_p_counts_after_top_k_as_transformers_does() -> None:
    """Among the top two the first has .73: 0.72 leaves one token, 0.74 two."""
    assert set(draw(2_000, top_k=2, top_p=0.72)) == {0}
    assert set(draw(2_000, top_k=2, top_p=0.74)) == {0, 1}


def test_a_wide_nucleus_is_found_by_sorting_everything() -> None:
    """Of 3000 equally likely tokens 0.9 needs 2700, far beyond the few that are looked at first."""
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.01], [5.0]])
    probs = torch.softmax(logits, -1)
    kept = sampling._keep_top_p(probs, torch.tensor([[0.9], [0.9]]))
    for row in range(2):
        ranked = probs[row].sort(descending=True).values
        wanted = int((ranked.cumsum(0) < 0.9).sum()) + 1
        assert abs(int((kept[row] > 0).sum()) - wanted) <= 1
        assert torch.equal(kept[row][kept[row] > 0], probs[row][kept[row] > 0])


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    """A regression guard against transformers' continuous batching, where the first request's settings govern all."""
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(seed=1),
        SamplingParams(seed=2, top_k=1),
        SamplingParams(seed=3, top_p=0.5, temperature=1.7),
        SamplingParams(seed=4, top_k=100),
    ]
    logits = torch.randn(len(params), 50, generator=torch.Generator().manual_seed(0))
    together = draw_tokens(logits, [RowSampler(item) for item in params]).tokens
    alone = [draw_tokens(logits[i : i + 1], [RowSampler(item)]).tokens[0] for i, item in enumerate(params)]
    assert together == alone
    assert together[0] == int(logits[0].argmax())
    assert together[2] == int(logits[2].argmax())


def test_logprobs_are_of_the_model_not_of_the_shaped_distribution() -> None:
    samplers = [RowSampler(SamplingParams(temperature=0.1, top_k=1, seed=0, logprobs=True))]
    drawn = draw_tokens(LOGITS[None], samplers)
    assert drawn.logprobs is not None
    assert drawn.logprobs[0] == pytest.approx(float(torch.log_softmax(LOGITS, 0)[drawn.tokens[0]]))


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert set(draw(50, temperature=1e-30)) == {0}


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    assert set(draw(500, logits=logits)) == {1, 3}


def test_nan_logits_are_an_error_not_a_token() -> None:
    with pytest.raises(EngineError, match="NaN"):
        draw_tokens(torch.tensor([[0.0, math.nan]]), [RowSampler(SamplingParams())])


def test_without_a_seed_rows_differ() -> None:
    """False-alarm probability 1e-43: 20 rows of 200 equally likely tokens would all agree."""
    samplers = [RowSampler(SamplingParams()) for _ in range(20)]
    assert len(set(draw_tokens(torch.zeros(20, 200), samplers).tokens)) > 1
