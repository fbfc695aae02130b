"""The activation predictor: a probe on hidden states, and what stopping by it would have done."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import Prompt, TokenIds
from hf_dynasor.engine import Ability, ReadsHiddenStates
from hf_dynasor.errors import ConfigurationError, EngineError, InputError
from hf_dynasor.evaluation.activations import (
    ActivationProbe,
    average_states,
    fit_probe,
    list_texts,
    predict_held_out,
    replay_predicted,
)
from hf_dynasor.evaluation.samples import read_samples
from hf_dynasor.serving import GenerateEngine, load_model
from tests.evaluation.kit import record_votes


def make_data(num=80, width=6, noise=0.05):
    rng = random.Random(0)
    states = [[rng.gauss(0, 3) for _ in range(width - 1)] + [1.0] for _ in range(num)]
    return states, [4 + 2 * state[0] - state[1] + rng.gauss(0, noise) for state in states]


def test_a_probe_foretells_what_is_linear_in_the_states_and_not_what_is_chance():
    states, targets = make_data()
    held_out = predict_held_out(states, targets, penalty=0.1)
    assert max(abs(a - b) for a, b in zip(held_out, targets, strict=True)) < 0.5
    shuffled = random.Random(1).sample(targets, len(targets))
    wrong = predict_held_out(states, shuffled, penalty=0.1)
    spread = sum((value - sum(shuffled) / len(shuffled)) ** 2 for value in shuffled)
    assert sum((a - b) ** 2 for a, b in zip(wrong, shuffled, strict=True)) > 0.8 * spread


def test_a_probe_goes_through_json():
    states, targets = make_data()
    probe = fit_probe(states, targets)
    row = {k: tuple(v) if isinstance(v, list) else v for k, v in probe.to_dict().items()}
    assert ActivationProbe(**row) == probe


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1e4))
def test_the_mean_state_is_foretold_the_mean_whatever_the_penalty(penalty):
    states, targets = make_data(num=12)
    probe = fit_probe(states, targets, penalty=penalty)
    assert probe.predict(average_states(states)) == pytest.approx(sum(targets) / len(targets))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="1 states and 1 targets"):
        fit_probe([[1.0]], [1.0])
    with pytest.raises(ConfigurationError, match="penalty = 0"):
        fit_probe([[1.0], [2.0]], [1.0, 2.0], penalty=0)
    with pytest.raises(ConfigurationError, match="folds = 3 for 2"):
        predict_held_out([[1.0], [2.0]], [1.0, 2.0], folds=3)
    with pytest.raises(ConfigurationError, match="width 2 but the probe was fitted on 1"):
        fit_probe([[1.0], [2.0]], [1.0, 2.0]).predict([1.0, 2.0])


def test_questions_end_at_detection_or_get_all():
    traces = record_votes("11112222", "11111111")
    samples = [read_samples(trace) for trace in traces]
    rows = replay_predicted(samples, {"q0": 3.0, "q1": 9.0}, limit=5, detect_at=2)
    assert [(row.stopped_at, row.is_early) for row in rows] == [(2, True), (8, False)]
    assert rows[0].net_tokens < rows[0].baseline_tokens
    assert rows[0].explanation == "3.0 units foretold"
    with pytest.raises(InputError, match="no prediction for 'q1'"):
        replay_predicted(samples, {"q0": 3.0}, limit=5)


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded", dtype="float32", device="cpu")


def test_the_engine_hands_out_the_state_of_the_last_token(loaded):
    prompts = [(5, 6, 7, 8), (9, 10), (11, 12, 13)]
    with GenerateEngine(loaded) as engine:
        assert isinstance(engine, ReadsHiddenStates)
        assert Ability.HIDDEN_STATES in engine.abilities
        states = engine.read_hidden_states([Prompt((TokenIds(ids=ids),)) for ids in prompts])
        with pytest.raises(ConfigurationError, match="tokens but expected 1 to"):
            engine.read_hidden_states([Prompt((TokenIds(ids=(5,) * 5000),))])
    for ids, state in zip(prompts, states, strict=True):
        with torch.no_grad():
            output = loaded.model(torch.tensor([ids]), output_hidden_states=True)
        assert state == pytest.approx(output.hidden_states[-1][0, -1].tolist(), abs=1e-4)
    with pytest.raises(EngineError):
        engine.read_hidden_states([Prompt((TokenIds(ids=(5,)),))])


def test_a_record_holds_what_its_states_are_made_from(loaded):
    (trace,) = record_votes("1122")
    texts = list_texts(trace, 3)
    assert len(texts) == 3
    assert len({text.segments[0] for text in texts}) == 1
    assert [text.segments[-1].ids for text in texts] == [
        tuple(item.token_ids) for item in trace.completions[:3]
    ]
