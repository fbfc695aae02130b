"""Peers beside ours on the same questions: their rules on recorded samples, and their own code against our server.

    python benchmarks/peers.py rules --runs runs/paper
    python benchmarks/peers.py served --peers-python PEERS/bin/python --num-questions 40 --budget 8

`rules` replays (no model): AdaptiveConsistency, ESC, certaindex, length and ours, each as published and with a setting
chosen on other questions. `served` starts our server with the embedded model and drives its_hub's and optillm's own code
against it, in an environment of their own:

    python -m venv PEERS && PEERS/bin/pip install 'its_hub[lm]' openai networkx flask z3-solver sympy PyYAML \\
        cerebras_cloud_sdk math-verify && PEERS/bin/pip install --no-deps optillm

Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEST = ("self_consistency_test", "self_consistency_test_1", "self_consistency_test_2")


def main() -> None:
    """Measure one side, print it, keep it."""
    arguments = _parse()
    row = {"rules": run_rules, "served": run_served}[arguments.side](arguments)
    if arguments.output:
        arguments.output.write_text(json.dumps(row) + "\n")
    print(json.dumps(row))


def run_rules(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every rule on the same recorded samples."""
    from hf_dynasor.evaluation.peers import compare_peers
    from hf_dynasor.evaluation.report_replays import open_replay
    from hf_dynasor.evaluation.run_folder import read_run

    def open_run(name: str) -> Any:
        return open_replay(read_run(arguments.runs / name))

    names = [name for name in TEST if (arguments.runs / name / "all_results.json").is_file()]
    rows = compare_peers(
        [open_run(name) for name in names], open_run("self_consistency_calibration"), budget=20
    )
    for row in rows:
        paired, tokens = row.against_even.difference, row.against_even.tokens
        print(
            f"{row.peer.name:32} {row.how:10} {row.summary.accuracy:6.1%}  saves {tokens.saved:6.1%} "
            f"({tokens.low:.1%} to {tokens.high:.1%})  {100 * paired.mean:+.2f} points "
            f"({100 * paired.low:+.2f} to {100 * paired.high:+.2f})  waits {row.summary.sequential_tokens:6.1f}"
        )
    return {
        "benchmark": "peers",
        "model": "embedded",
        "budget": 20,
        "num_questions": rows[0].summary.num_questions,
        "num_seeds": rows[0].summary.num_seeds,
        "rows": [row.to_dict() for row in rows],
    }


def run_served(arguments: argparse.Namespace) -> dict[str, Any]:
    """Their code over HTTP, ours over HTTP, on the same questions and the same server."""
    from served import Server

    from hf_dynasor.embedded.problems import generate_problems

    problems = generate_problems(arguments.num_questions, seed=2026, split="test")
    server = Server("--model", "embedded", "--max-waiting", "512")
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = _drive(arguments, server.address, problems, Path(folder))
        ours = _ask_ours(arguments, server.address, problems)
    finally:
        server.process.terminate()
        server.process.wait(60)
    even = _list_right(ours["ours: even"], problems)
    rows = [_grade(name, answers, problems, even) for name, answers in (theirs | ours).items()]
    for row in rows:
        print(
            f"{row['algorithm']:40} {row['accuracy']:6.1%} ({row['accuracy_interval'][0]:.1%} to "
            f"{row['accuracy_interval'][1]:.1%})  {row['points']:+.1f} points  {row['tokens']:8.1f} tokens  "
            f"{row['num_errors']} errors"
        )
    return {
        "benchmark": "peers_served",
        "model": "embedded",
        "num_questions": len(problems),
        "budget": arguments.budget,
        "temperature": arguments.temperature,
        "versions": _read_versions(arguments.peers_python),
        "rows": rows,
    }


def _drive(
    arguments: argparse.Namespace, address: str, problems: Sequence[Any], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    questions, output = folder / "questions.jsonl", folder / "rows.jsonl"
    questions.write_text("".join(json.dumps({"id": p.id, "question": p.question}) + "\n" for p in problems))
    command = [str(arguments.peers_python), str(HERE / "peers_their_code.py"), "--url", f"{address}/v1"]
    command += ["--model", "embedded", "--questions", str(questions), "--output", str(output)]
    command += ["--budget", str(arguments.budget), "--temperature", str(arguments.temperature)]
    subprocess.run(command, check=True, timeout=arguments.timeout, env={"PATH": "/usr/bin:/bin"})
    found: dict[str, list[dict[str, Any]]] = {}
    for line in output.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["algorithm"], []).append(row)
    return found


def _ask_ours(
    arguments: argparse.Namespace, address: str, problems: Sequence[Any]
) -> dict[str, list[dict[str, Any]]]:
    """Self-consistency programs on the same server: everything spent, and two policies."""
    import httpx

    policies: dict[str, dict[str, Any]] = {
        "even": {},
        "static": {"detect_at": 4, "certaindex": {"entropy": 0.5}},
        "forecast": {},
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for policy, more in policies.items():
        for problem in problems:
            body = {"question": problem.question, "policy": policy, "budget": arguments.budget, "seed": 0}
            body |= {"temperature": arguments.temperature, "max_new_tokens": 256, **more}
            job = httpx.post(f"{address}/v1/programs", json=body, timeout=60).raise_for_status().json()
            result = _wait_for(f"{address}/v1/programs/{job['id']}", arguments.timeout)
            row = {"text": result.get("answer"), "tokens": result["usage"]["net_tokens"], "is_final": True}
            found.setdefault(f"ours: {policy}", []).append(row | {"id": problem.id})
    return found


def _wait_for(address: str, timeout: float) -> dict[str, Any]:
    """The result of a program once it has one."""
    import httpx

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        job = httpx.get(address, timeout=60).raise_for_status().json()
        if job["status"] not in ("queued", "running", "in_progress"):
            return job["result"]
        time.sleep(0.1)
    raise SystemExit(f"{address} did not end within {timeout:g} s")


def _list_right(answers: Sequence[dict[str, Any]], problems: Sequence[Any]) -> list[float]:
    """Whether each is right, in the order of the problems."""
    from hf_dynasor.answers import find_answer, is_correct

    found = {}
    for row in answers:
        text = row["text"]
        if text is not None and not row.get("is_final"):
            answer = find_answer(text)
            text = answer.text if answer else None
        found[row["id"]] = text
    texts = [(found[problem.id], problem.answer) for problem in problems]
    return [float(text is not None and is_correct(text, answer)) for text, answer in texts]


def _grade(
    name: str, answers: Sequence[dict[str, Any]], problems: Sequence[Any], even: Sequence[float]
) -> dict[str, Any]:
    """A row; its points are against our even self-consistency, question by question."""
    from hf_dynasor.evaluation import paired_difference, wilson_interval

    right = _list_right(answers, problems)
    num_right, num_errors = round(sum(right)), sum(bool(row.get("error")) for row in answers)
    low, high = wilson_interval(num_right, len(answers))
    difference = paired_difference(even, right)
    return {
        "algorithm": name,
        "accuracy": round(num_right / len(answers), 4),
        "accuracy_interval": [round(low, 4), round(high, 4)],
        "points": round(100 * difference.mean, 2),
        "points_interval": [round(100 * difference.low, 2), round(100 * difference.high, 2)],
        "tokens": round(sum(row["tokens"] for row in answers) / len(answers), 1),
        "num_errors": num_errors,
        "first_error": next((row["error"] for row in answers if row.get("error")), None),
    }


def _read_versions(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m; print(m.version('its_hub'), m.version('optillm'))"
    words = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    return {"its_hub": words[0], "optillm": words[1]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side", choices=["rules", "served"])
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has its_hub and optillm")
    parser.add_argument("--num-questions", type=int, default=40)
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--output", type=Path, help="keep the JSON line here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
