"""Models in 8 and 4 bits beside full precision: accuracy, memory, speed. bitsandbytes on this machine's processor.

The same questions, seeds and programs for each; the difference in accuracy is paired. Prints a table and ends with one JSON
line. `--model smollm2` writes the GGUF's weights into a transformers folder first, since a GGUF file is quantised in a form
of its own (what it loads to here is the full precision).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from smollm2 import find_model, make_sums
from transformers import AutoModelForCausalLM

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import EvaluationReport, Question, evaluate, paired_difference
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import load_model, make_engine

PRECISIONS = (None, "bnb-8bit", "bnb-4bit")


def main() -> int:
    """Run every precision on the same questions and report."""
    arguments = _parse()
    torch.set_num_threads(1)
    is_embedded = arguments.model == "embedded"
    questions = make_problems(arguments.num) if is_embedded else make_sums(arguments.num)
    recipe = Recipe(
        budget=arguments.budget,
        policy="even",
        seed=0,
        max_new_tokens=256 if is_embedded else 48,
        **({} if is_embedded else {"instruction": ""}),
    )
    with tempfile.TemporaryDirectory() as folder:
        source = "embedded" if is_embedded else unpack_smollm2(Path(folder))
        reports = {name: measure(source, name, questions, recipe) for name in PRECISIONS}
    print(json.dumps(describe(arguments, reports)))
    return 0


def make_problems(num: int) -> list[Question]:
    """Generated questions that the reasoner was not trained on."""
    return [
        Question(id=item.id, question=item.question, answer=item.answer, group=str(item.level))
        for item in generate_problems(num, seed=21, split="test")
    ]


def unpack_smollm2(folder: Path) -> Path:
    """The GGUF's weights as a plain transformers folder."""
    loaded = load_model(find_model(), device="cpu")
    config = copy.deepcopy(loaded.model.config)
    if hasattr(config, "quantization_config"):  # the GGUF's: what is written here is full precision
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.model.state_dict())
    plain.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def measure(
    source: str | Path, quantization: str | None, questions: list[Question], recipe: Recipe
) -> tuple[EvaluationReport, int, float]:
    """One precision: its report, bytes of weights, and net tokens a second of processor time."""
    loaded = load_model(source, device="cpu", quantization=quantization)
    num_bytes = loaded.model.get_memory_footprint()
    with make_engine(loaded, engine="generate") as engine:
        evaluate(questions[:1], recipe, engine)  # warms up
        begin = time.process_time()
        report = evaluate(questions, recipe, engine)
        seconds = time.process_time() - begin
    speed = report.usage.net_tokens / seconds
    low, high = report.accuracy_interval
    print(
        f"{quantization or 'float32':9} accuracy {report.accuracy:6.1%} ({low:.1%} to {high:.1%})  weights "
        f"{num_bytes / 2**20:7.1f} MiB  {speed:7.0f} tokens/s of processor time",
        flush=True,
    )
    return report, num_bytes, speed


def describe(
    arguments: argparse.Namespace, reports: dict[str | None, tuple[EvaluationReport, int, float]]
) -> dict[str, object]:
    """The JSON line."""
    row: dict[str, object] = {
        "benchmark": "quantization",
        "model": arguments.model,
        "budget": arguments.budget,
    }
    full, full_bytes, full_speed = reports[None]
    row["num_questions"] = len(full.results)
    for name, (report, num_bytes, speed) in reports.items():
        difference = paired_difference(
            *([float(item.is_correct) for item in each.results] for each in (full, report))
        )
        row[name or "float32"] = {
            "accuracy": round(report.accuracy, 4),
            "accuracy_interval": [round(value, 4) for value in report.accuracy_interval],
            "accuracy_difference": round(difference.mean, 4),
            "difference_interval": [round(difference.low, 4), round(difference.high, 4)],
            "weight_bytes": num_bytes,
            "memory_ratio": round(num_bytes / full_bytes, 4),
            "tokens_per_second": round(speed, 1),
            "speed_ratio": round(speed / full_speed, 3),
            "net_tokens": report.usage.net_tokens,
        }
    return row


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("embedded", "smollm2"), default="embedded")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--budget", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
