"""`pipeline("dynasor-reasoning")`, and a user's own text-generation pipeline as an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_dynasor
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError, InputError, ModelLoadError
from hf_dynasor.pipelines import DynasorReasoningPipeline


@pytest.fixture(scope="module")
def reason():
    pipe = pipeline("dynasor-reasoning", device="cpu")
    yield pipe
    pipe.close()


def test_without_a_model_it_is_the_embedded_one(reason):
    assert reason.model.name_or_path == str(REASONER_PATH)
    row = reason("What is 7+8?", seed=0)
    assert row["answer"] == "15"
    assert row["stop_reason"] == "certain"
    assert row["usage"]["net_tokens"] > 0


def test_a_list_is_solved_side_by_side_in_order(reason):
    rows = reason([f"What is {n}+2?" for n in (3, 4, 5)], seed=0, budget=5)
    assert [row["answer"] for row in rows] == ["5", "6", "7"]


def test_options_of_construction_hold_and_a_call_overrides_them():
    pipe = pipeline("dynasor-reasoning", device="cpu", budget=2, policy="even", seed=0)
    try:
        assert [grant["units"] for grant in pipe("What is 3+2?")["grants"]] == [2]
        assert [grant["units"] for grant in pipe("What is 3+2?", budget=3)["grants"]] == [3]
    finally:
        pipe.close()


def test_it_works_again_after_being_closed():
    pipe = pipeline("dynasor-reasoning", device="cpu")
    for _ in range(2):
        assert pipe("What is 3+2?", budget=2, seed=1)["answer"] is not None
        pipe.close()


def test_an_unknown_option_is_refused_and_lists_the_known_ones(reason):
    with pytest.raises(ConfigurationError, match=r"Unknown option 'bugdet'. Known: .*budget"):
        reason("What is 3+2?", bugdet=3)


def test_an_empty_question_is_refused(reason):
    with pytest.raises(InputError, match="empty question"):
        reason("")


@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_a_users_own_pipeline_is_the_engine_of_a_program(engine):
    own = pipeline("text-generation", model=str(REASONER_PATH), device="cpu")
    answer = hf_dynasor.solve("What is 7+8?", model=own, engine=engine, budget=10)
    assert answer.text == "15"
    # The user's pipeline is as it was: it still generates.
    assert own([{"role": "user", "content": "What is 2+3?"}], max_new_tokens=4)[0]["generated_text"]


def test_a_pipeline_for_another_task_is_refused(reason):
    with pytest.raises(ModelLoadError, match="text-generation"):
        hf_dynasor.solve("What is 7+8?", model=reason)


def test_a_running_engine_is_used_and_left_open():
    engine = hf_dynasor.make_engine(engine="generate")
    try:
        assert hf_dynasor.solve("What is 7+8?", model=engine, seed=0).text == "15"
        engine.check_health()
    finally:
        engine.close()


def test_solver_refuses_a_recipe_beside_its_fields():
    with pytest.raises(ConfigurationError, match="the one or the other"):
        hf_dynasor.Solver(recipe=hf_dynasor.Recipe(), budget=3)


@pytest.mark.parametrize("option", ["engine", "dtype", "device"])
def test_options_of_construction_are_refused_at_a_call(reason, option):
    """They once were taken and ignored."""
    with pytest.raises(ConfigurationError, match=option):
        reason("What is 3+2?", **{option: "cpu"})


def test_a_conversation_is_one_question(reason):
    row = reason([{"role": "user", "content": "What is 7+8?"}], seed=0)
    assert row["answer"] == "15"


def test_a_list_and_a_single_question_draw_the_same(reason):
    single = reason("What is 83*47-159?", seed=0, budget=3, policy="even")
    (listed,) = reason(["What is 83*47-159?"], seed=0, budget=3, policy="even")
    assert single["votes"] == listed["votes"]
    assert single["usage"]["sampled"] == listed["usage"]["sampled"]


def test_options_for_loading_are_refused_with_a_running_engine():
    engine = hf_dynasor.make_engine(engine="generate")
    try:
        with pytest.raises(ConfigurationError, match="running engine"):
            hf_dynasor.Solver(engine, dtype="bfloat16")
    finally:
        engine.close()


def test_a_question_that_cannot_be_asked_ends_alone():
    with hf_dynasor.Solver(seed=0, budget=2, policy="even") as solver:
        outcomes = sorted(
            solver.solve_many(["What is 2+2?", "", "What is 3+3?", None]), key=lambda item: item.index
        )
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]


QUESTIONS = [f"What is {n}+2?" for n in (3, 4, 3, 5)]


def test_a_generator_is_taken_as_it_goes_and_yields_what_a_list_does(reason):
    taken = []

    def generate():
        for number in range(1000):
            taken.append(number)
            yield QUESTIONS[number % 4]

    rows = reason(generate(), seed=0, budget=2, policy="even", batch_size=2)
    assert taken == []  # nothing before it is asked for
    first = [next(rows) for _ in range(4)]
    assert len(taken) <= 2 * 8 + 1
    rows.close()
    listed = reason(QUESTIONS, seed=0, budget=2, policy="even", batch_size=2)
    assert [row["votes"] for row in first] == [row["votes"] for row in listed]
    assert [row["usage"]["sampled"] for row in first] == [row["usage"]["sampled"] for row in listed]


def test_a_repeated_question_draws_anew_across_windows(reason):
    rows = list(reason(iter(["What is 83*47-159?"] * 10), seed=0, budget=1, policy="even", batch_size=1))
    assert len({row["usage"]["sampled"] for row in rows} | {row["answer"] for row in rows}) > 2


def test_a_column_of_a_data_set_and_its_rows_are_questions(reason):
    datasets = pytest.importorskip("datasets", reason="needs the extra eval")
    data = datasets.Dataset.from_dict({"question": QUESTIONS, "other": ["x"] * 4})
    expected = ["5", "6", "5", "7"]
    assert [row["answer"] for row in reason(KeyDataset(data, "question"), seed=0, budget=3)] == expected
    assert [row["answer"] for row in reason(data, seed=0, budget=3)] == expected
    with pytest.raises(InputError, match="other but expected 'question'"):
        next(reason(data.remove_columns("question"), seed=0))


def test_many_conversations_are_a_list_of_them(reason):
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS[:2]]
    assert [row["answer"] for row in reason(asked, seed=0, budget=3)] == ["5", "6"]


def test_text_and_token_ids_are_those_of_the_engine(reason):
    """The pipeline, and the same program driven by hand on an engine of its own."""
    options = {"budget": 3, "policy": "even", "seed": 5, "temperature": 0.7}
    row = reason("What is 83*47-159?", return_all=True, **options)
    recipe = hf_dynasor.Recipe(**options)
    program, policy = recipe.build("What is 83*47-159?")
    with hf_dynasor.make_engine("embedded", engine="generate", device="cpu") as engine:
        answer = hf_dynasor.run(program, engine, policy)
    assert row["answer"] == answer.text
    assert [path["text"] for path in row["paths"]] == [path.text for path in answer.paths]
    ours = {item["request_id"]: item["token_ids"] for item in row["completions"]}
    assert ours == {item["request_id"]: item["token_ids"] for item in program.snapshot()["completions"]}
    assert all(ours.values())


def test_without_return_all_there_is_the_answer_alone(reason):
    assert not {"paths", "completions"} & set(reason("What is 3+2?", budget=2, seed=0))


def test_a_program_a_policy_and_an_effort_are_chosen_at_the_call(reason):
    row = reason("What is 3+2?", program="rebase", budget=2, seed=0)
    assert (row["unit"], row["budget"]) == ("width", 2)
    chain = {"program": "chain_of_thought", "budget": 256, "enable_thinking": True, "temperature": 0.0}
    options = {"program_options": {"suffix": "short", "interval": 16}}
    plain = reason("What is 23*7+5?", **chain, program_options={"mode": "plain"})
    crazy = reason("What is 23*7+5?", effort="crazy", **chain, **options)
    assert (plain["usage"]["probe"], plain["stop_reason"]) == (0, "finished")
    assert crazy["usage"]["probe"] > 0
    assert crazy["usage"]["sampled"] < plain["usage"]["sampled"]


def test_a_calibrated_file_is_a_policy(reason, tmp_path):
    path = tmp_path / "policy.json"
    row = {"schema": "hf_dynasor.policy/1", "kind": "width", "name": "static"}
    path.write_text(json.dumps(row | {"parameters": {"thresholds": {"entropy": 0.5}, "detect_at": 2}}))
    found = reason("What is 3+2?", policy=str(path), seed=0, budget=6)
    assert [grant["units"] for grant in found["grants"]] == [2]


def test_plain_prompts_send_bare_text(reason):
    """The embedded model answers chat prompts only: what counts is that another prompt was sent."""
    chat, plain = (
        reason("What is 3+2?", budget=1, policy="even", seed=0, prompt_format=name, instruction="")
        for name in ("chat", "plain")
    )
    assert plain["usage"]["prompt"] < chat["usage"]["prompt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effort": "lazy", "program": "chain_of_thought"}, r"Unknown effort 'lazy'\. Known: crazy"),
        ({"effort": "mid"}, "effort = 'mid' for program 'self_consistency'"),
        (
            {"effort": "mid", "program": "chain_of_thought", "program_options": {"rule": "none"}},
            "no rule beside it",
        ),
    ],
)
def test_an_effort_that_means_nothing_is_refused(reason, options, said):
    with pytest.raises(ConfigurationError, match=said):
        reason("What is 3+2?", **options)


@pytest.fixture(scope="module")
def saved(reason, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    reason.save_pretrained(folder)
    return folder


def test_a_saved_folder_has_the_pipeline_and_a_card_and_no_path_of_this_machine(saved):
    assert {"hub_pipeline.py", "README.md", "config.json", "tokenizer.json"} <= {
        path.name for path in saved.iterdir()
    }
    config = json.loads((saved / "config.json").read_text())
    assert config["custom_pipelines"]["dynasor-reasoning"]["impl"] == "hub_pipeline.HubReasoningPipeline"
    assert str(REASONER_PATH) not in (saved / "config.json").read_text()
    card = (saved / "README.md").read_text()
    assert "library_name: transformers" in card
    assert 'pipeline("dynasor-reasoning", model="OWNER/NAME", trust_remote_code=True)' in card
    assert "{{" not in card
    assert "{%" not in card


def test_a_card_shows_the_options_and_what_it_is_told(reason):
    card = reason.make_model_card(results="| accuracy | 0.5 |", repo_id="me/mine")
    assert "| accuracy | 0.5 |" in card
    assert "me/mine" in card


LOAD = """
import sys
from transformers import pipeline
import hf_dynasor
options = {"trust_remote_code": True} if sys.argv[2] == "trust" else {}
reason = pipeline("dynasor-reasoning", model=sys.argv[1], device="cpu", **options)
print(type(reason).__module__, reason("What is 3+2?", seed=0, budget=3)["answer"])
reason.close()
"""


@pytest.mark.parametrize("choice", ["trust", "default"])
def test_a_saved_folder_loads_where_its_code_is_trusted_and_only_there(saved, choice, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(saved), choice],
        capture_output=True, text=True, timeout=120, check=False, env=clean_environment(tmp_path),
    )  # fmt: skip
    if choice == "trust":
        assert result.returncode == 0, result.stderr
        module, answer = result.stdout.split()
        assert (module.startswith("transformers_modules."), answer) == (True, "5")
    else:
        assert result.returncode != 0
        assert "trust_remote_code=True" in result.stderr


def clean_environment(folder):
    root = str(Path(hf_dynasor.__file__).parents[1])
    return os.environ | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder)}


def test_the_registered_class_is_the_pipeline(reason):
    assert isinstance(reason, DynasorReasoningPipeline)
