"""`hf-dynasor batch`: a file of programs in, a file of results out, taken up again where it was interrupted."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from hf_dynasor.cli.backends import check_backend_options, find_backend_model, open_backend
from hf_dynasor.cli.options import add_model_options, add_program_options, make_recipe, positive
from hf_dynasor.errors import InputError, MissingExtraError

EXIT_FAILED = 1

EPILOG = """\
IN.jsonl holds one program a line, as the server's /v1/batches takes them:
  {"id": "q1", "question": "What is 17*6+4?", "budget": 10, "seed": 3}
Only "question" (or "messages") is needed; the options below are the defaults of what a line leaves out.

examples:
  hf-dynasor batch questions.jsonl answers.jsonl
  hf-dynasor batch questions.jsonl answers.jsonl --job-store jobs.sqlite --program rebase --budget 8

Every program that ends is kept in the job store at once (default: OUT.jsonl.sqlite). After a crash, Ctrl-C or a lost
machine run the same command again: what had ended is not run twice, the rest is run, and OUT.jsonl is written whole,
one line for each program in the order of IN.jsonl. Another file, model or option is another batch. One process at a
time may use a store. Exit code: 0, 1 where a program failed, 2 for a broken line (it is named, nothing is run)."""


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """The options of `batch`."""
    parser.add_argument("file", metavar="IN.jsonl", help="programs, one JSON object a line")
    parser.add_argument("output", metavar="OUT.jsonl", help="where the results are written, at the end")
    parser.add_argument("--job-store", metavar="FILE", help="what is kept meanwhile (OUT.jsonl.sqlite)")
    parser.add_argument("--max-active", type=positive, default=16, help="programs in flight (default: 16)")
    add_model_options(parser)
    add_program_options(parser)
    parser.set_defaults(run=run_batch_file)


def run_batch_file(arguments: argparse.Namespace) -> int:
    """Run what is left of the file, write the results."""
    recipe = make_recipe(arguments)
    lines = read_lines(arguments.file)
    try:
        from hf_dynasor.serving.http.job_store import SqliteJobStore
        from hf_dynasor.serving.http.offline import enlist
        from hf_dynasor.serving.http.settings import ServerSettings
    except ImportError as error:
        raise MissingExtraError(
            f"Batches need the package {error.name!r}: pip install 'hf-dynasor[serve]'."
        ) from None
    from hf_dynasor.serving.http.model_info import ServedModel
    from hf_dynasor.serving.loading import load_model

    settings = ServerSettings(
        max_programs=arguments.max_active, program_timeout_s=arguments.timeout, recipe=recipe
    )
    if check_backend_options(arguments):
        loaded, name, capacity = find_backend_model(arguments)
        model = ServedModel(loaded, name, int(time.time()), capacity)
    else:
        loaded = load_model(
            arguments.model,
            dtype=arguments.dtype,
            device=arguments.device,
            quantization=arguments.quantization,
        )
        model = ServedModel(loaded, loaded.name, int(time.time()))
    store = SqliteJobStore(arguments.job_store or f"{arguments.output}.sqlite")
    try:
        batch = enlist(lines, model, settings, store, created=int(time.time()))
        rows = _run(arguments, settings, model, store, batch)
    finally:
        store.close()
    write_rows(arguments.output, rows)
    return _summarise(arguments, rows)


def read_lines(path: str) -> list[str]:
    """The lines of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}.") from None


def write_rows(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write lines of JSON, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    half = f"{path}.part"
    try:
        with open(half, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(half, path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.") from None


def _run(
    arguments: argparse.Namespace, settings: Any, model: Any, store: Any, batch: str
) -> list[dict[str, Any]]:
    import asyncio

    from hf_dynasor.serving.http.offline import run_batch
    from hf_dynasor.serving.http.programs_api import shape_job, walk_batch
    from hf_dynasor.serving.http.supervisor import SupervisedEngine
    from hf_dynasor.serving.serve_engine import make_serving_engine

    jobs = walk_batch(store, batch)
    if not all(job.status.is_final for job in jobs):  # else there is nothing to run an engine for
        make: Callable[[], Any] = partial(make_serving_engine, model.loaded, arguments.engine)
        if arguments.backend is not None:
            make = partial(open_backend, arguments, tokenizer=model.loaded)
        engine = SupervisedEngine(make)
        try:
            jobs = asyncio.run(run_batch(batch, engine, model, settings, store, on_progress=_tell))
        finally:
            engine.close()
    return [shape_job(job) for job in jobs]


def _tell(num_ended: int, num_all: int) -> None:
    end = "\n" if num_ended == num_all or not sys.stderr.isatty() else "\r"
    print(f"{num_ended} of {num_all} programs have ended", end=end, file=sys.stderr, flush=True)


def _summarise(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    failed = [row for row in rows if row["status"] != "completed"]
    net = sum(row["result"]["usage"]["net_tokens"] for row in rows if row["result"])
    told = {"num_programs": len(rows), "num_failed": len(failed), "net_tokens": net}
    if arguments.json:
        print(json.dumps(told))
    else:
        print(f"{len(rows)} programs, {len(failed)} failed, {net:,} net tokens: {arguments.output}")
    for row in failed[:10]:
        print(f"hf-dynasor: {row['custom_id'] or row['id']}: {row['error']}", file=sys.stderr)
    return EXIT_FAILED if failed else 0
