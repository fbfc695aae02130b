"""Early exits on long chains of thought: accuracy, net tokens and wall-clock time against plain `generate`.

Every side answers the same generated questions with the same seeds, batch by batch in turn. "default" is
`EarlyExit(tokenizer)` with nothing named: the settings that lie beside the model. Net tokens count probes and forced
tokens. Prints a table, then one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/early_exit.py [--num-questions 64] [--model embedded]

With `--calibrate FILE` it tries a grid of settings on other questions than the test ones, and writes the cheapest one
that loses nothing to FILE, with a certificate. That is how the embedded model's `stopping_policy.json` was made:

    OMP_NUM_THREADS=1 python benchmarks/early_exit.py --num-questions 480 --batch 32 \\
        --calibrate hf_dynasor/embedded/reasoner/stopping_policy.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_dynasor.answers import extract_answer, is_correct
from hf_dynasor.embedded.problems import Problem, generate_problems
from hf_dynasor.evaluation import paired_difference
from hf_dynasor.serving import LoadedModel, load_model
from hf_dynasor.stopping import (
    DEFAULT_RULE,
    EFFORTS,
    AnswerConsistency,
    BoundaryConfidence,
    DepthPolicy,
    EarlyExit,
    StoppingRule,
    ThinkingBudget,
)

LEVELS = (1, 2, 3, 4, 5, 6)
TEST_SEED, CALIBRATION_SEED = 2027, 2028
MAX_LOSS = 0.0
# The windows at a finer interval stand beside the paper's levels, because the embedded model's thoughts are some
# 30 times shorter than those that the levels are made for. `None` names nothing.
SIDES: Mapping[str, StoppingRule | None] = {
    "no exit": ThinkingBudget(),
    "default": None,
    "uncalibrated": DEFAULT_RULE,
    **EFFORTS,
    "3 every 16": AnswerConsistency(window=3, interval=16),
    "boundary 0.99": BoundaryConfidence(threshold=0.99, statistic="minimum", min_gap=16),
}
GRID: Mapping[str, StoppingRule] = {
    f"{threshold:g}, gap {gap}": BoundaryConfidence(threshold=threshold, statistic="minimum", min_gap=gap)
    for gap in (8, 16, 32)
    for threshold in (0.9, 0.99, 0.999)
}


@dataclass(slots=True, kw_only=True)
class Side:
    """What one way of generating came to."""

    seconds: float = 0.0
    net_tokens: int = 0
    num_steps: int = 0
    num_early: int = 0
    correct: list[float] = field(default_factory=list)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Run every side on every batch and report, or calibrate."""
    options = _parse()
    torch.set_num_threads(1)
    loaded = load_model(options.model, dtype="float32", device="cpu")
    loaded.tokenizer.padding_side = "left"
    is_calibrating = options.calibrate is not None
    problems = _list_problems(options.num_questions, is_calibrating=is_calibrating)
    names = list(GRID) if is_calibrating else options.sides
    sides = {"plain generate": Side(), **{name: Side() for name in names}}
    for start in range(0, len(problems), options.batch):
        batch = problems[start : start + options.batch]
        for name, side in sides.items():
            _run(loaded, batch, _make_exit(loaded, name, options), side, options)
    rows = _report(loaded, sides, options)
    if is_calibrating:
        _write_policy(rows, problems, options)


def _list_problems(num_questions: int, *, is_calibrating: bool) -> list[Problem]:
    """Test questions, or as many others without a question of any test set of this benchmark."""
    test = generate_problems(max(500, num_questions), seed=TEST_SEED, levels=LEVELS, split="test")
    if not is_calibrating:
        return test[:num_questions]
    others = generate_problems(2 * num_questions, seed=CALIBRATION_SEED, levels=LEVELS, split="test")
    known = {problem.steps for problem in test}
    return [problem for problem in others if problem.steps not in known][:num_questions]


def _make_exit(loaded: LoadedModel, name: str, options: argparse.Namespace) -> EarlyExit | None:
    if name == "plain generate":
        return None
    rule = GRID.get(name) or SIDES[name]
    if rule is None:
        return EarlyExit(loaded.tokenizer)
    return EarlyExit(
        loaded.tokenizer,
        rule,
        exit=options.exit,
        grace=options.grace,
        suffix=options.suffix,
        closing=options.closing,
    )


def _write_policy(rows: list[dict[str, Any]], problems: list[Problem], options: argparse.Namespace) -> None:
    """The settings with the least net tokens among those that lose at most `MAX_LOSS`, with what they came to."""
    able = [row for row in rows if row["side"] in GRID and -row["difference"] <= MAX_LOSS]
    if not able:
        raise SystemExit("No setting of the grid loses so little: nothing was written.")
    best = min(able, key=lambda row: row["token_ratio"])
    low, high = best["difference_interval"]
    certificate = {
        "made_by": "benchmarks/early_exit.py --calibrate",
        "model": options.model,
        "num_questions": len(problems),
        "split": "test",
        "seed": CALIBRATION_SEED,
        "levels": list(LEVELS),
        "temperature": options.temperature,
        "num_settings_tried": len(GRID),
        "max_loss": MAX_LOSS,
        "accuracy": best["accuracy"],
        "loss": -best["difference"] + 0.0,
        "loss_interval": [-high, -low],
        "tokens_saved": round(1 - best["token_ratio"], 4),
    }
    policy = DepthPolicy(
        rule=GRID[best["side"]],
        exit=options.exit,
        suffix=options.suffix,
        closing=options.closing,
        certificate=certificate,
    )
    policy.save(options.calibrate)
    print(f"{best['side']}: written to {options.calibrate}")


def _run(
    loaded: LoadedModel,
    problems: list[Problem],
    early_exit: EarlyExit | None,
    side: Side,
    options: argparse.Namespace,
) -> None:
    """Answer one batch; without an early exit with stock `generate`."""
    tokenizer = loaded.tokenizer
    batch = tokenizer.apply_chat_template(
        [[{"role": "user", "content": problem.question}] for problem in problems],
        add_generation_prompt=True,
        enable_thinking=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    extra: dict[str, Any] = {} if early_exit is None else {"custom_generate": early_exit}
    torch.manual_seed(0)
    start = CLOCKS[options.clock]()
    output = loaded.model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=options.max_new_tokens,
        do_sample=True,
        temperature=options.temperature,
        top_k=0,
        **extra,
    )
    side.seconds += CLOCKS[options.clock]() - start
    new = output[:, batch["input_ids"].shape[1] :]
    side.num_steps += new.shape[1]
    if early_exit is None:
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        answers = [extract_answer(text) for text in texts]
        side.net_tokens += int((new != tokenizer.pad_token_id).sum())
    else:
        answers = [report.answer for report in early_exit.reports]
        side.net_tokens += sum(report.usage.net_tokens for report in early_exit.reports)
        side.num_early += sum(report.is_early for report in early_exit.reports)
    side.correct += [
        float(answer is not None and is_correct(answer, problem.answer))
        for answer, problem in zip(answers, problems, strict=True)
    ]


def _report(
    loaded: LoadedModel, sides: Mapping[str, Side], options: argparse.Namespace
) -> list[dict[str, Any]]:
    plain = sides["plain generate"]
    rows = []
    for name, side in sides.items():
        difference = paired_difference(plain.correct, side.correct)
        rows.append(
            {
                "side": name,
                "accuracy": round(sum(side.correct) / len(side.correct), 4),
                "difference": round(difference.mean, 4),
                "difference_interval": [round(difference.low, 4), round(difference.high, 4)],
                "token_ratio": round(side.net_tokens / plain.net_tokens, 4),
                "step_ratio": round(side.num_steps / plain.num_steps, 4),
                "seconds_ratio": round(side.seconds / plain.seconds, 4),
                "early_rate": round(side.num_early / len(side.correct), 4),
            }
        )
    print(f"{'':16} accuracy  difference (95%)            net tokens  steps   seconds  early")
    for row in rows:
        low, high = row["difference_interval"]
        print(
            f"{row['side']:16} {row['accuracy']:8.1%}  {row['difference'] * 100:+5.1f} ({low * 100:+5.1f} to "
            f"{high * 100:+5.1f}) points   {row['token_ratio']:8.3f}  {row['step_ratio']:6.3f}  "
            f"{row['seconds_ratio']:7.3f}  {row['early_rate']:5.0%}"
        )
    settings = {
        name: value for name, value in vars(options).items() if name not in ("model", "sides", "calibrate")
    }
    print(json.dumps({"benchmark": "early_exit", "model": loaded.name, **settings, "sides": rows}))
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS), help="cpu on a shared machine")
    parser.add_argument(
        "--model", default="embedded", help="'embedded', a folder, a .gguf file or a hub name"
    )
    parser.add_argument("--num-questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--calibrate", metavar="FILE", help="choose settings and write them to FILE")
    parser.add_argument("--max-new-tokens", type=int, default=768)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--exit", default="answer", choices=["answer", "paste", "stop"])
    parser.add_argument("--grace", type=int, default=0)
    parser.add_argument("--suffix", default="short")
    parser.add_argument("--closing", default="boxed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
