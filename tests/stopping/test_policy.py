"""Rules by name, policy files, and where a default comes from."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping import (
    DEFAULT_RULE,
    EFFORTS,
    POLICY_FILE,
    AccumulatedEvidence,
    AllOf,
    AnswerConsistency,
    AnyOf,
    BoundaryConfidence,
    DepthPolicy,
    EntropyAfterThinking,
    ThinkingBudget,
    build_rule,
    find_policy,
    resolve_policy,
    rule_to_dict,
)

ROOT = Path(__file__).parents[2]
COUNTS, SHARES = st.integers(1, 500), st.floats(0, 1)
SINGLE = st.one_of(
    st.builds(
        AnswerConsistency,
        window=COUNTS,
        interval=COUNTS,
        threshold=SHARES,
        warmup=COUNTS,
        hesitation_words=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    ),
    st.builds(
        BoundaryConfidence,
        threshold=SHARES,
        statistic=st.sampled_from(["geometric_mean", "minimum"]),
        delimiter=st.text(min_size=1, max_size=3),
        min_gap=COUNTS,
        warmup=COUNTS,
    ),
    st.builds(EntropyAfterThinking, threshold=SHARES, interval=COUNTS, window=COUNTS, warmup=COUNTS),
    st.builds(ThinkingBudget, minimum=st.integers(0, 9), maximum=st.none() | st.integers(10, 99)),
)
RULES = st.recursive(
    SINGLE,
    lambda part: st.builds(
        lambda kind, rules: kind(tuple(rules)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(part, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@given(RULES)
@settings(max_examples=60)
def test_every_rule_survives_the_way_through_json(rule):
    assert build_rule(**json.loads(json.dumps(rule_to_dict(rule)))) == rule


@given(
    RULES,
    st.sampled_from(["answer", "paste", "stop"]),
    st.none() | st.just("short"),
    st.sampled_from(["plain", "boxed", "So.{close}"]),
)
@settings(max_examples=30)
def test_a_policy_survives_the_way_through_json(rule, exit, suffix, closing):
    policy = DepthPolicy(rule=rule, exit=exit, suffix=suffix, closing=closing, certificate={"seed": 3})
    assert DepthPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("magic", {}, "Unknown stopping rule 'magic'. Known: all_of, answer_consistency"),
        (["any_of"], {}, "Unknown stopping rule"),
        (
            "boundary_confidence",
            {"thresh": 1},
            "Unknown parameter of 'boundary_confidence' 'thresh'. Known: delim",
        ),
        ("boundary_confidence", {"threshold": 2}, r"threshold = 2 .*\[0, 1\]"),
        ("boundary_confidence", {"threshold": "high"}, "wrong type"),
        ("boundary_confidence", [1], "table of the parameters"),
        ("answer_consistency", {"window": 0}, "window = 0 .* at least 1"),
        ("answer_consistency", {"interval": 0}, "interval = 0 .* at least 1"),
        ("any_of", {}, "at least one"),
        ("any_of", {"rules": "all"}, "list of tables"),
        ("any_of", {"rules": [{"name": "thinking_budget", "options": {}}]}, "Unknown entry .* 'options'"),
    ],
)
def test_what_cannot_be_a_rule_raises_with_what_can(name, parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        build_rule(name, parameters)


def test_combinations_nest_only_so_deep():
    table = rule_to_dict(ThinkingBudget())
    for _ in range(9):
        table = {"name": "any_of", "parameters": {"rules": [table]}}
    with pytest.raises(ConfigurationError, match="nested 8 deep"):
        build_rule(**table)


def test_a_rule_of_another_class_has_no_name():
    with pytest.raises(ConfigurationError, match="SimpleNamespace but expected one that has a name"):
        rule_to_dict(SimpleNamespace())


GOOD = {
    "schema": "hf_dynasor.policy/1",
    "kind": "depth",
    "name": "thinking_budget",
    "parameters": {"maximum": 9},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected a table"),
        (
            json.dumps({**GOOD, "schema": "hf_dynasor.policy/2"}),
            "policy/2' but expected 'hf_dynasor.policy/1'",
        ),
        (json.dumps({**GOOD, "kind": "width"}), "kind = 'width' but expected 'depth'"),
        (json.dumps({**GOOD, "nome": 1}), "Unknown key of a policy 'nome'"),
        (json.dumps({**GOOD, "name": "magic"}), "Unknown stopping rule 'magic'"),
        (json.dumps({**GOOD, "exit": "leave"}), "Unknown exit 'leave'"),
        (json.dumps({**GOOD, "closing": "bye"}), "closing = 'bye'"),
        (json.dumps({**GOOD, "suffix": 5}), "suffix = 5"),
        (json.dumps({**GOOD, "certificate": 5}), "certificate = 5"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, text, message):
    path = tmp_path / POLICY_FILE
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        find_policy(SimpleNamespace(name_or_path=str(tmp_path)))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"Cannot read the policy .*none.json"):
        resolve_policy(tmp_path / "none.json")


def test_the_folder_of_the_model_is_asked_before_that_of_the_tokenizer(tmp_path):
    folders = []
    for name, maximum in (("model", 5), ("tokenizer", 6)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        DepthPolicy(rule=ThinkingBudget(maximum=maximum)).save(folders[-1] / POLICY_FILE)
    model, tokenizer = (SimpleNamespace(name_or_path=str(folder)) for folder in folders)
    assert resolve_policy(None, model, tokenizer).rule == ThinkingBudget(maximum=5)
    assert resolve_policy(None, SimpleNamespace(name_or_path=""), tokenizer).rule == ThinkingBudget(maximum=6)
    assert resolve_policy(None, SimpleNamespace(), SimpleNamespace(name_or_path="org/name")) == DepthPolicy()


def test_a_rule_that_is_named_wins_over_the_file(tmp_path):
    DepthPolicy(rule=ThinkingBudget(maximum=5), exit="paste").save(tmp_path / POLICY_FILE)
    model = SimpleNamespace(name_or_path=str(tmp_path))
    assert resolve_policy(EFFORTS["low"], model) == DepthPolicy(rule=EFFORTS["low"])
    assert resolve_policy("high", model).rule == EFFORTS["high"]
    assert resolve_policy("evidence", model) == DepthPolicy(rule=AccumulatedEvidence())
    assert resolve_policy(str(tmp_path / POLICY_FILE)).exit == "paste"
    with pytest.raises(ConfigurationError, match=r"Unknown rule .*'wild'\. Known: .*crazy"):
        resolve_policy("wild")
    with pytest.raises(ConfigurationError, match="rule = 5 but expected a stopping rule"):
        resolve_policy(5)


def test_the_default_reads_probabilities_at_boundaries_and_not_agreement():
    assert isinstance(DEFAULT_RULE, BoundaryConfidence)
    assert DEFAULT_RULE.statistic == "minimum"
    assert DEFAULT_RULE.threshold == 0.995


def test_the_embedded_model_ships_settings_with_a_certificate():
    policy = DepthPolicy.from_file(REASONER_PATH / POLICY_FILE)
    certificate = policy.certificate
    assert certificate["num_questions"] >= 300
    assert certificate["seed"] != 2027, "the test questions of the benchmark"
    assert certificate["loss"] <= certificate["max_loss"]
    assert certificate["tokens_saved"] >= 0.3


def test_the_measured_default_reaches_the_bar_on_test_questions():
    """At least 30% of the net tokens saved at no more than half a point lost, on 500 questions."""
    result = json.loads((ROOT / "benchmarks" / "results" / "early_exit_default.json").read_text())
    (row,) = [side for side in result["sides"] if side["side"] == "default"]
    assert result["num_questions"] >= 500
    assert row["token_ratio"] <= 0.7
    assert row["difference"] >= -0.005
