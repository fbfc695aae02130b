"""What the evaluation script is told: files of questions, flags, argument files; and how it names a mistake."""

from __future__ import annotations

import json

import pytest

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.script import run_script
from hf_dynasor.evaluation.script_arguments import parse_script_arguments
from hf_dynasor.testing import ScriptedEngine
from tests.evaluation.script_kit import Alone, answer, evaluate, write_questions


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "questions.jsonl", 6)


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_other_files_hold_the_same_questions(questions, tmp_path, ending):
    import pandas

    table = pandas.read_json(questions, lines=True)
    path = tmp_path / f"other.{ending}"
    {"csv": lambda: table.to_csv(path, index=False), "parquet": lambda: table.to_parquet(path),
     "json": lambda: table.to_json(path, orient="records")}[ending]()  # fmt: skip
    run = evaluate(path, tmp_path / "run", "--budget", 5)
    assert run.totals.accuracy == pytest.approx(5 / 6, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--program", "magic"), "Unknown program 'magic'"),
        (("--policy", "magic"), "Unknown policy 'magic'"),
        (("--policy", "static:entropy"), "expected name=value"),
        (("--program_options", "[1]"), "expected a JSON object"),
        (("--program_options", "{"), "not JSON"),
        (("--program_options", '{"magic": 1}'), "'magic', which self_consistency does not read"),
        (("--max_eval_samples", 0), "at least 1"),
        (("--seeds", 1, 1), "each of them once"),
        (("--report_to", "magic"), "expected one of tensorboard"),
        (("--max_active", 0), "more than 0"),
        (("--dataset_name", "x"), "the one or the other"),
        (("--magic", 1), "--magic"),
    ],
)
def test_a_mistake_is_named_before_any_model_is_loaded(questions, tmp_path, options, said):
    with pytest.raises((ConfigurationError, InputError)) as caught:
        evaluate(questions, tmp_path / "run", *options, engine=None)
    assert said in str(caught.value)


def test_a_row_that_cannot_be_asked_is_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question": "2+2?", "answer": "4"}\n{"question": "", "answer": "4"}\n')
    with pytest.raises(InputError, match="Row 1 has no field 'question'"):
        evaluate(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "said"), [("no.jsonl", "no such file"), ("no.txt", "expected one that ends with")]
)
def test_a_file_that_is_none_is_refused(tmp_path, name, said):
    with pytest.raises((ConfigurationError, InputError), match=said):
        evaluate(tmp_path / name, tmp_path / "run")


def test_a_hub_name_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    arguments = parse_script_arguments(["--task", "gsm8k", "--output_dir", str(tmp_path)])
    with pytest.raises(InputError, match=r"Cannot load openai/gsm8k: .+"):
        run_script(arguments, lambda device: ScriptedEngine(answer), processes=Alone())


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_arguments_come_from_a_file_and_flags_overrule_it(tmp_path, ending):
    path = tmp_path / f"arguments.{ending}"
    row = {"output_dir": "runs/a", "budget": 7, "seeds": [1, 2], "program_options": {"stop_decided": True}}
    path.write_text(json.dumps(row))  # JSON is YAML
    arguments = parse_script_arguments([str(path), "--budget", "9"])
    assert (arguments.program.budget, arguments.program.seeds, arguments.run.output_dir) == (
        9,
        [1, 2],
        "runs/a",
    )
    assert json.loads(arguments.program.program_options) == {"stop_decided": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [("bugdet: 3", "unknown argument 'bugdet'"), ("[1]", "list"), ("a: [", "Cannot read the arguments")],
)
def test_a_mistake_in_an_argument_file_is_named(tmp_path, text, said):
    path = tmp_path / "arguments.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        parse_script_arguments([str(path)])


def test_a_run_without_a_folder_is_refused():
    with pytest.raises(ConfigurationError, match="--output_dir"):
        parse_script_arguments([])
