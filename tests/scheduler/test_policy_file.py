"""Policy files: what is written is read back, and nothing else is."""

import dataclasses
import json

import pytest

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import StaticThreshold
from hf_dynasor.scheduler.calibration_certificate import (
    Certificate,
    GroupResult,
    Reference,
    Saving,
    read_certificate,
)
from hf_dynasor.scheduler.policy_file import SCHEMA, PolicyFile, load_policy, parse_policy
from hf_dynasor.stopping import AccumulatedEvidence, resolve_policy

CERTIFICATE = Certificate(
    risk=0.02,
    confidence=0.9,
    loss="paired",
    method="ltt",
    bound="binomial",
    num_questions=200,
    num_needed=114,
    num_settings=12,
    num_certified=3,
    realised_risk=0.005,
    p_value=0.0894,
    upper_bound=0.0193,
    accuracy=0.88,
    baseline_accuracy=0.885,
    tokens_saved=Saving(share=0.4, low=0.36, high=0.44),
    early_stop_rate=0.7,
    is_run_to_cap=False,
    groups={
        "algebra": GroupResult(num_questions=200, realised_risk=0.005, p_value=0.0894, upper_bound=0.0193)
    },
    fingerprint="ab" * 32,
    reference=Reference(num_early=140, spent=(0,) * 20, lengths=(0, 200)),
    warnings=("few questions",),
    created_by="hf_dynasor 0.1.0",
)
FILE = PolicyFile(
    kind="width",
    name="static",
    parameters={"detect_at": 5, "thresholds": {"entropy": 0.7}},
    certificate=CERTIFICATE,
)


def broken(**changes):
    return FILE.to_dict() | changes


def broken_certificate(**changes):
    return broken(certificate=CERTIFICATE.to_dict() | changes)


def test_a_file_is_read_back_as_it_was_written(tmp_path):
    FILE.save(tmp_path / "policy.json")
    assert load_policy(tmp_path / "policy.json") == FILE
    assert json.loads((tmp_path / "policy.json").read_text())["schema"] == SCHEMA


def test_a_certificate_on_average_has_neither_confidence_nor_p_value():
    on_average = dataclasses.replace(CERTIFICATE, confidence=None, p_value=None, method="crc")
    assert read_certificate(json.loads(json.dumps(on_average.to_dict()))) == on_average


def test_certificate_and_exit_may_be_left_out():
    row = {"schema": SCHEMA, "kind": "depth", "name": "boundary", "parameters": {"threshold": 0.99}}
    assert parse_policy(row).to_dict() == row
    assert parse_policy(row | {"exit": "paste"}).to_dict() == row | {"exit": "paste"}
    assert parse_policy(row | {"certificate": {}}).certificate is None


def test_a_width_file_builds_its_policy():
    policy = FILE.build_policy()
    assert policy == StaticThreshold(detect_at=5, thresholds=Thresholds(entropy=0.7))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "JSON list"),
        ({}, "schema None"),
        (broken(schema="hf_dynasor.policy/2"), "policy/2"),
        (broken(colour="red"), "Unknown key 'colour'. Known: schema"),
        ({"schema": SCHEMA, "kind": "width"}, "Missing: name, parameters"),
        (broken(kind="height"), "Known: depth, width, width_depth"),
        (broken(kind=["width"]), "kind of policy"),
        (broken(name=""), "name = ''"),
        (broken(name=3), "name = 3"),
        (broken(parameters=[]), "parameters = \\[\\]"),
        (broken(exit="paste"), "belong to depth policies"),
        (broken(kind="depth", exit={}), "exit = {}"),
        (broken(certificate=[]), "certificate = \\[\\]"),
        (broken_certificate(risk="2%"), "certificate.risk = '2%'"),
        (broken_certificate(risk=True), "certificate.risk = True"),
        (broken_certificate(risk=2), "from 0 to 1"),
        (broken_certificate(confidence=-0.1), "certificate.confidence"),
        (broken_certificate(loss="huber"), "one of: paired, accuracy"),
        (broken_certificate(num_questions=2.5), "whole number"),
        (broken_certificate(is_run_to_cap=0), "true or false"),
        (broken_certificate(groups=[]), "certificate.groups"),
        (broken_certificate(groups={"a": {}}), "Missing in certificate.groups.a"),
        (broken_certificate(tokens_saved={"share": 0.1}), "Missing in certificate.tokens_saved"),
        (broken_certificate(warnings="none"), "expected a list"),
        (broken_certificate(reference={"num_early": 1, "spent": [1.5], "lengths": []}), r"spent\[0\]"),
        (broken_certificate(mood="good"), "Unknown key 'mood' in certificate"),
    ],
)
def test_a_broken_file_says_where(row, message):
    with pytest.raises(InputError, match=message):
        parse_policy(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ('{"schema": NaN}', "number NaN"),
        ('{"schema": 1, "schema": 2}', "twice"),
        ("[" * 100_000, "no JSON"),
        ('"' + "x" * 1_000_001 + '"', "characters"),
    ],
)
def test_a_file_that_is_no_policy_is_named(tmp_path, text, message):
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load_policy(path)
    assert "policy.json" in str(raised.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match="Cannot read"):
        load_policy(tmp_path / "none.json")
    with pytest.raises(InputError, match="Cannot write"):
        FILE.save(tmp_path / "none" / "policy.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_policy(tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "depth"}, "expected 'width'"),
        ({"name": "statik"}, "Unknown policy 'statik'"),
        ({"parameters": {"treshold": 1}}, "Unknown option of policy 'static' 'treshold'"),
        ({"parameters": {"detect_at": "five"}}, "detect_at = "),
        ({"parameters": {"thresholds": {"mood": 0.5}}}, "mood"),
        ({"parameters": {"thresholds": 0.5}}, "object by signal"),
    ],
)
def test_a_policy_that_cannot_be_built_says_why(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        dataclasses.replace(FILE, **changes).build_policy()


def test_a_recipe_takes_a_file(tmp_path):
    FILE.save(tmp_path / "policy.json")
    recipe = Recipe(policy=str(tmp_path / "policy.json"), budget=10)
    (tmp_path / "policy.json").unlink()  # read once, so a recipe stays what it was
    assert recipe.build("What is 2+2?")[1] == StaticThreshold(detect_at=5, thresholds=Thresholds(entropy=0.7))


def test_a_depth_policy_becomes_the_rule_of_a_chain(tmp_path):
    path = str(tmp_path / "depth.json")
    file = PolicyFile(
        kind="depth", name="evidence", parameters={"threshold": 9.5}, exit="paste", suffix="short"
    )
    file.save(path)
    recipe = Recipe(program="chain_of_thought", policy=path)
    program, policy = recipe.build("What is 2+2?")
    assert (policy.name, program.settings.exit, program.settings.suffix) == ("even", "probe", "short")
    assert program.settings.rule == AccumulatedEvidence(threshold=9.5) == resolve_policy(path).rule
    assert json.loads(json.dumps(recipe.program_options)) == recipe.program_options
    dataclasses.replace(file, exit="answer", closing="boxed").save(path)
    settings = Recipe(program="chain_of_thought", policy=path).build("What is 2+2?")[0].settings
    assert (settings.exit, settings.closing) == ("answer", "boxed")
    with pytest.raises(ConfigurationError, match=r"'rule' and .*, which says it too"):
        Recipe(program="chain_of_thought", policy=path, program_options={"rule": "mid"})
    dataclasses.replace(file, exit="stop").save(path)
    with pytest.raises(ConfigurationError, match="leaves a chain without an answer"):
        Recipe(program="chain_of_thought", policy=path)


def test_a_recipe_refuses_files_that_it_cannot_follow(tmp_path):
    dataclasses.replace(FILE, kind="depth").save(tmp_path / "depth.json")
    with pytest.raises(ConfigurationError, match="expected program 'chain_of_thought'"):
        Recipe(policy=str(tmp_path / "depth.json"))
    dataclasses.replace(FILE, kind="width_depth").save(tmp_path / "both.json")
    with pytest.raises(ConfigurationError, match="expected 'width'"):
        Recipe(policy=str(tmp_path / "both.json"))
    with pytest.raises(InputError, match="Cannot read"):
        Recipe(policy=str(tmp_path / "none.json"))
    FILE.save(tmp_path / "width.json")
    with pytest.raises(ConfigurationError, match="does not read it"):
        Recipe(policy=str(tmp_path / "width.json"), detect_at=3)
