"""Runs an evaluation from arguments to a run on disk: resumable, over one process or many, reported as it goes.

Knows engines as a protocol; `examples/run_reasoning_eval.py` opens one and hands it over.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, cast

from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.engine import Engine
from hf_dynasor.evaluation.asking import Ask, Asked, solve_asks
from hf_dynasor.evaluation.journal import (
    Entry,
    JournalWriter,
    Progress,
    finish_run,
    prepare_folder,
    read_progress,
)
from hf_dynasor.evaluation.measures import measure
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.evaluation.reporters import NoReporter, Reporter, open_reporter
from hf_dynasor.evaluation.run_folder import RunFolder, read_run
from hf_dynasor.evaluation.script_arguments import ScriptArguments
from hf_dynasor.evaluation.script_plan import Plan
from hf_dynasor.recipe import Recipe

logger = logging.getLogger(__name__)

_MAX_SKEW = timedelta(days=7)


class Processes(Protocol):
    """What of accelerate's `PartialState` is used: which process this is among how many."""

    process_index: int
    num_processes: int
    is_main_process: bool
    device: Any

    def wait_for_everyone(self) -> None:
        """Until every process has come here."""

    def split_between_processes(self, inputs: Any) -> Any:
        """A context with this process's part."""


def open_processes() -> Processes:
    """The processes that `accelerate launch` started, or this one alone."""
    from accelerate import PartialState

    # The shares of the processes take as long as their questions do; the last one must be waited for.
    return cast(Processes, PartialState(timeout=_MAX_SKEW))


def run_script(
    arguments: ScriptArguments,
    open_engine: Callable[[str | None], Engine],
    *,
    processes: Processes | None = None,
    clock: Clock | None = None,
) -> RunFolder:
    """Evaluate, or take up again what was interrupted, and write the run.

    Args:
        arguments: See `parse_script_arguments`.
        open_engine: Makes the engine, once it is clear that there is anything to do; is told the device of this process
            where there are several, else `None`.
        processes: By default those of `accelerate launch`.
        clock: For the wall time.

    Returns:
        The run, read back (in the main process; others see it as it is then).

    Raises:
        ConfigurationError, InputError: Arguments, data or folder that cannot work.
        EngineError: The engine died; run the same command again.
    """
    plan = Plan(arguments)
    processes = processes or open_processes()
    if processes.is_main_process and prepare_folder(plan.folder, plan.info, overwrite=plan.overwrite):
        logger.warning("%s is done already; --overwrite_output_dir runs it again.", plan.folder)
    processes.wait_for_everyone()
    progress = read_progress(plan.folder)
    if progress.is_done:
        return read_run(plan.folder)
    left = [ask for ask in plan.asks if ask.key not in progress.entries]
    with processes.split_between_processes(left) as share:
        device = str(processes.device) if processes.num_processes > 1 else None
        engine_name = _run_share(plan, share, progress, partial(open_engine, device), processes, clock)
    processes.wait_for_everyone()
    if processes.is_main_process:
        info = replace(plan.info, engine=engine_name)
        finish_run(plan.folder, info, [ask.key for ask in plan.asks], arguments=arguments.to_dict())
    processes.wait_for_everyone()
    return read_run(plan.folder)


def _run_share(
    plan: Plan,
    asks: Sequence[Ask],
    progress: Progress,
    open_engine: Callable[[], Engine],
    processes: Processes,
    clock: Clock | None,
) -> str:
    """Solve this process's share and write it down; the engine's name."""
    run, clock = plan.arguments.run, clock or MonotonicClock()
    begin = clock.now()
    with contextlib.ExitStack() as stack:
        engine = open_engine()
        stack.callback(engine.close)
        recording = RecordingEngine(engine) if run.record_trace else None
        journal = stack.enter_context(JournalWriter(plan.folder, rank=processes.process_index))
        listener = stack.enter_context(_Listener(plan, len(asks), processes, progress))
        for asked in solve_asks(
            asks, plan.recipe, recording or engine, plan.grade, max_active=run.max_active, timeout=run.timeout
        ):
            seconds = progress.seconds + max(0.0, clock.now() - begin)
            trace = None if recording is None else _read_trace(asked, recording, plan.recipe)
            journal.write(Entry(prediction=asked.prediction, trace=trace, seconds=seconds))
            listener.note(asked)
        return engine.name


def _read_trace(asked: Asked, engine: RecordingEngine, recipe: Recipe) -> Mapping[str, Any]:
    line = io.StringIO()
    TraceWriter(line, engine, replace(recipe, seed=asked.prediction.seed))(asked.result)
    row: Mapping[str, Any] = json.loads(line.getvalue())
    return row


class _Listener:
    """Shows the main process's share as a bar, and reports it; the totals at the end are those of all processes."""

    def __init__(self, plan: Plan, total: int, processes: Processes, progress: Progress) -> None:
        from tqdm import tqdm

        run = plan.arguments.run
        is_shown = processes.is_main_process and not run.disable_tqdm
        # None: shown on a terminal, left out of a log file.
        self._bar = tqdm(total=total, unit="question", disable=None if is_shown else True)
        self._reporter: Reporter = NoReporter()
        if processes.is_main_process:
            self._reporter = open_reporter(run.report_to, plan.folder, plan.arguments.to_dict())
        self._every = run.logging_steps
        self._predictions = [entry.prediction for entry in progress.entries.values()]
        self._num_right = sum(item.is_right for item in self._predictions)
        self._left = total

    def __enter__(self) -> _Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._reporter.close()

    def note(self, asked: Asked) -> None:
        """One more question has ended."""
        self._predictions.append(asked.prediction)
        self._left -= 1
        num = len(self._predictions)
        self._num_right += asked.prediction.is_right
        self._bar.update()
        self._bar.set_postfix(right=f"{self._num_right}/{num}")
        if num % self._every == 0 or not self._left:
            self._reporter.log(measure(self._predictions), step=num)
