"""Runs for reports: small ones of scripted votes, written as folders."""

from __future__ import annotations

import json

from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.report_on import write_trace_run
from hf_dynasor.evaluation.report_record import record_trace
from hf_dynasor.recipe import Recipe
from tests.evaluation.kit import script

NASTY = '</td><script>alert("1")</script> $\\frac | `x` {{ 7*7 }} & "quoted"'
"""What a data set may hold: markup, a formula that does not end, a template."""


def write_votes(folder, *votes, seed=None, model="tiny", dataset="letters", text="Question {}?"):
    """A run whose question `qN` got these samples, the right answer being `1`."""
    questions = [
        Question(id=f"q{number}", question=text.format(number), answer="1", group="easy")
        for number in range(len(votes))
    ]
    recipe = Recipe(budget=len(votes[0]), seed=seed, policy="even")
    record_trace(folder / "trace.jsonl", questions, recipe, script(votes))
    write_trace_run(folder, model=model, dataset=dataset)
    return folder


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
