"""What a probe need not pay for: what was accepted already, and what no rule could be satisfied by any more."""

from dataclasses import replace

import pytest
import torch

from hf_dynasor.stopping import (
    AllOf,
    AnswerConsistency,
    AnyOf,
    BoundaryConfidence,
    EarlyExit,
    Prober,
    ThinkingBudget,
)
from tests.stopping.kit import QUESTIONS, encode
from tests.stopping.test_probe import is_unchanged, snapshot, think

FLOOR = 0.995


class Patient:
    """A rule without a floor: its probes read every answer to its end."""

    def __init__(self, rule):
        self.needs, self.reads_text, self.start = rule.needs, rule.reads_text, rule.start


@pytest.mark.parametrize("mode", ["decode", "verify"])
def test_an_answer_is_given_up_at_its_first_unlikely_token(reasoner, mode):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS), num_tokens=8)
    before = snapshot(live.cache)
    prober = Prober(reasoner.model, reasoner.tokenizer, mode=mode)
    whole = prober.read(live, range(4))
    told = None if mode == "decode" else [*whole[1:], whole[0]]
    for result, full in zip(prober.read(live, range(4), previous=told, floor=FLOOR), whole, strict=True):
        unlikely = [i for i, value in enumerate(full.logprobs) if value <= torch.tensor(FLOOR).log()]
        assert result.is_given_up == bool(unlikely)
        assert result.ids == full.ids[: unlikely[0] + 1] if unlikely else result.ids == full.ids
        assert result.answer == (None if unlikely else full.answer)
    assert any(result.is_given_up for result in prober.read(live, range(4), floor=FLOOR))
    assert is_unchanged(live.cache, before)


def test_a_probe_that_gave_up_is_nothing_to_verify(reasoner):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS[:1]), num_tokens=8)
    prober = Prober(reasoner.model, reasoner.tokenizer)
    (given_up,) = prober.read(live, [0], floor=0.9999999)
    assert given_up.is_given_up
    (again,) = prober.read(live, [0], previous=[given_up])
    assert not again.is_given_up
    assert not again.is_verified
    assert again.ids == prober.read(live, [0])[0].ids


def test_what_the_model_repeats_of_an_answer_is_not_decoded_again(reasoner):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS[2:3]), num_tokens=60)
    prober = Prober(reasoner.model, reasoner.tokenizer)
    (fresh,) = prober.read(live, [0])
    assert len(fresh.ids) >= 4
    passes = []
    handle = reasoner.model.register_forward_pre_hook(lambda *_: passes.append(1))
    for place in range(len(fresh.ids)):
        ids = (*fresh.ids[:place], fresh.ids[place] + 1, *fresh.ids[place + 1 :])
        passes.clear()
        (result,) = prober.read(live, [0], previous=[replace(fresh, ids=ids)])
        assert result.ids == fresh.ids
        assert len(passes) == len(fresh.ids) - min(place, len(fresh.ids) - 1)
        assert result.num_tokens == fresh.num_tokens + len(ids) - 1 - place
    handle.remove()


def test_giving_up_changes_no_exit_and_saves_tokens(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS)
    rule = BoundaryConfidence(threshold=0.99, statistic="minimum", min_gap=4)
    spent, texts = [], []
    for used in (rule, Patient(rule)):
        early_exit = EarlyExit(reasoner.tokenizer, used, suffix="short", closing="boxed")
        texts.append(
            reasoner.model.generate(**batch, custom_generate=early_exit, max_new_tokens=200, do_sample=False)
        )
        spent.append([report.usage.probe for report in early_exit.reports])
    assert torch.equal(*texts)
    assert all(some <= every for some, every in zip(*spent, strict=True))
    assert sum(spent[0]) < sum(spent[1])


def test_only_rules_that_cannot_use_the_rest_let_it_go():
    careful = BoundaryConfidence(threshold=0.99, statistic="minimum")
    assert careful.floor == 0.99
    assert BoundaryConfidence(threshold=0.99, statistic="geometric_mean").floor == 0
    assert AnyOf((careful, ThinkingBudget(maximum=9))).floor == 0.99
    assert AllOf((careful, AnswerConsistency())).floor == 0
    assert AnyOf((careful, BoundaryConfidence(threshold=0.5, statistic="minimum"))).floor == 0.5
    assert AnyOf((ThinkingBudget(maximum=9),)).floor == 0
