"""Runs of the evaluation script on a scripted engine, for tests."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

from hf_dynasor.errors import EngineError
from hf_dynasor.evaluation.script import run_script
from hf_dynasor.evaluation.script_arguments import parse_script_arguments
from hf_dynasor.testing import Reply, ScriptedEngine


class Alone:
    """One process among so many, for runs in this process."""

    def __init__(self, index=0, count=1):
        self.process_index, self.num_processes, self.device = index, count, "cpu"
        self.is_main_process = index == 0

    def wait_for_everyone(self):
        pass

    @contextmanager
    def split_between_processes(self, inputs):
        yield inputs


def write_questions(path, num):
    rows = [
        {"id": f"q{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n), "level": n % 2}
        for n in range(num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(request):
    """Right but for q1, and a little different from sample to sample."""
    number = int(request.key.program_id.partition("#")[0][1:])
    index = int(request.key.request_id.removeprefix("sample-"))
    return Reply(text=f"\\boxed{{{2 * number if number != 1 else 99 + index % 2}}}", num_tokens=10 + index)


class Dying(ScriptedEngine):
    """Dies after so many requests, as a machine does."""

    def __init__(self, num):
        super().__init__(answer)
        self.num = num

    def submit(self, requests, sink):
        self.num -= len(requests)
        if self.num < 0:
            raise EngineError("out of power")
        super().submit(requests, sink)


def evaluate(questions, folder, *options, engine=None, processes=None):
    arguments = parse_script_arguments(
        ["--data_file", str(questions), "--output_dir", str(folder), "--task", "plain", *map(str, options)]
    )
    engine = engine or ScriptedEngine(answer)
    return run_script(arguments, lambda device: engine, processes=processes or Alone())


def read(folder):
    """What two equal runs share: all but the time, and what happened to be in a cache."""
    results = json.loads((Path(folder) / "all_results.json").read_text())
    rows = [json.loads(line) for line in (Path(folder) / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        del row["usage"]["cached"]
    return {key: value for key, value in results.items() if key not in ("seconds", "cached_tokens")}, rows
