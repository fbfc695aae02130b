"""lm-eval against a running server: a generation task and a log-likelihood task from local files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation.run_folder import read_run
from hf_dynasor.serving import load_model
from hf_dynasor.serving.model_source import locate_model
from hf_dynasor.serving.prompt_logprobs import read_prompt_logprobs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra e2e"),
]

DOCS = [
    {"sum": f"{a}+{b}", "answer": str(a + b), "wrong": str(a + b + 1)} for a, b in ((2, 3), (7, 8), (40, 5))
]

GENERATE = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is {{{{sum}}}}?"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<|no_such|>"], max_gen_toks: 96, temperature: 0}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: 'boxed\\{{(-?[0-9]+)\\}}'}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match}}
"""

SCRIPT = Path(__file__).parents[2] / "examples" / "run_reasoning_eval.py"

SOLVE = """
task: problems
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}\\nPlease reason step by step, and put your final answer within \\\\boxed{{}}."
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<|no_such|>"], max_gen_toks: 512, temperature: 0}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: 'boxed\\{{(-?[0-9]+)\\}}'}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match}}
"""

CHOOSE = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{sum}}}}="
doc_to_choice: "{{{{[answer, wrong]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - {{metric: acc}}
"""


@pytest.fixture
def evaluate(tmp_path, run_python, address):
    data = tmp_path / "docs.jsonl"

    def run(task, model, path, *options, batch_size=1, docs=DOCS):
        data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (tmp_path / "task.yaml").write_text(task.format(data=data))
        name = task.split()[1]
        arguments = f"model=embedded,base_url={address}{path},tokenizer={locate_model('embedded', local_files_only=True)[0]},{','.join(options)}"
        command = ("-m", "lm_eval", "--model", model, "--model_args", arguments.rstrip(","))
        folder = ("--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples")
        extra = ("--batch_size", batch_size, *(("--apply_chat_template",) if "chat" in model else ()))
        run_python(*command, "--tasks", name, *folder, *extra, seconds=600)
        (results,) = (tmp_path / "out").rglob("results_*.json")
        (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        return json.loads(results.read_text())["results"][name], sorted(rows, key=lambda row: row["doc_id"])

    return run


def test_a_generation_task_is_scored(evaluate):
    scores, rows = evaluate(GENERATE, "local-chat-completions", "/v1/chat/completions", "num_concurrent=3")
    assert scores["exact_match,boxed"] == 1.0
    assert len(rows) == len(DOCS)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_are_the_models_own(evaluate, batch_size):
    options = ("num_concurrent=1", "tokenizer_backend=huggingface")
    path = "/v1/completions"
    scores, rows = evaluate(CHOOSE, "local-completions", path, *options, batch_size=batch_size)
    loaded = load_model("embedded")
    encode = loaded.tokenizer.encode
    for row, doc in zip(rows, DOCS, strict=True):
        for (said, is_greedy), choice in zip(
            row["filtered_resps"], (doc["answer"], doc["wrong"]), strict=True
        ):
            context = encode(f"{doc['sum']}=", add_special_tokens=False)
            whole = encode(f"{doc['sum']}={choice}", add_special_tokens=False)
            (read,) = read_prompt_logprobs(loaded, [whole], num_top=1)
            tail = range(len(context), len(whole))
            assert float(said) == pytest.approx(sum(read.logprobs[place] for place in tail), abs=1e-3)
            expected = all(read.top_logprobs[place][0][0] == whole[place] for place in tail)
            assert (str(is_greedy) == "True") == expected
    assert 0 <= scores["acc,none"] <= 1


@pytest.mark.timeout(900)
def test_the_evaluation_script_agrees_question_by_question(evaluate, run_python, tmp_path):
    """Greedy on both sides, through the server there and on the engine itself here: the same answers, no tolerance."""
    docs = [
        # Some say the instruction themselves; lm-eval's template would say it twice.
        {"id": item.id, "question": item.question.partition("\n")[0], "answer": item.answer}
        for item in generate_problems(12, seed=31, split="test")
    ]
    path = "/v1/chat/completions"
    scores, rows = evaluate(SOLVE, "local-chat-completions", path, "num_concurrent=4", docs=docs)
    greedy = ("--budget", 1, "--policy", "even", "--temperature", 0)
    run_python(
        SCRIPT, "--data_file", tmp_path / "docs.jsonl", "--output_dir", tmp_path / "run", *greedy, seconds=600
    )
    run = read_run(tmp_path / "run")
    assert [row["exact_match"] for row in rows] == [float(item.is_right) for item in run.predictions]
    assert scores["exact_match,boxed"] == pytest.approx(run.totals.accuracy, abs=1e-6)
    assert 0 < run.totals.accuracy < 1  # else the agreement would say little
