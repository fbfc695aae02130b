"""The engine for many programs at once: transformers' continuous batching over shared pages.

Every step runs whatever is in flight, each request at its own position; prompts that begin alike share the pages
of their common beginning, generated tokens included.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import transformers

from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.engine import Ability
from hf_dynasor.errors import UnsupportedError
from hf_dynasor.program_plan import ProgramPlan
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.plans import Limits
from hf_dynasor.scheduler.policies import SchedulingPolicy, make_scheduling_policy
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.engine_model import StepRow
from hf_dynasor.serving.failures import is_out_of_memory
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.local_engine import LocalEngine, check_positive
from hf_dynasor.serving.model_source import first_line
from hf_dynasor.serving.padded_batch import find_cache_kind
from hf_dynasor.serving.paged_backend import PagedBackend
from hf_dynasor.serving.program_scheduling import ProgramScheduling
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.tracks import Ledger

if TYPE_CHECKING:
    from hf_dynasor.serving._transformers_internals import PagedLoop, Pages

logger = logging.getLogger(__name__)

CPU_CACHE_BYTES = 512 * 2**20
CPU_MAX_BLOCKS = 2048
CPU_MAX_BATCH_TOKENS = 512
DEFAULT_SCHEDULER = "gang_sjf"
_ADVICE = "Use GenerateEngine instead (engine='generate')."


class ContinuousBatchingEngine(LocalEngine):
    """Runs requests through `model.init_continuous_batching`, with seeds, stop strings and log-probabilities.

    Args:
        loaded: The model. All of its layers must keep full attention.
        page_size: Tokens of a page: the grain in which beginnings are shared.
        num_blocks: Pages of the cache. On a CPU `None` takes what fits 512 MiB, at most 2048; elsewhere
            transformers takes most of the accelerator's free memory.
        max_batch_tokens: Most tokens that one step computes; longer prompts are split. `None` means 512 on a
            CPU and is left to transformers elsewhere.
        max_batch_requests: Most requests that one step runs; the others wait. `None` means 256.
        scheduler: Who goes first: a scheduling policy or its name. The default is the paper's, shortest program
            first; requests that belong to no program go by arrival under it.
        ageing: When a program has waited too long.
        clock: Time, for deadlines, ageing and measured steps.
        num_step_rows: Steps to remember in `step_rows`; none by default.
        reward: Answers `Score` requests.

    Raises:
        ConfigurationError: The scheduling policy is unknown, or a size below 1.
        UnsupportedError: Continuous batching cannot run the model, this release of transformers is unknown, or
            there is not enough memory for the cache. The model is left as it was.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        page_size: int = 16,
        num_blocks: int | None = None,
        max_batch_tokens: int | None = None,
        max_batch_requests: int | None = None,
        scheduler: str | SchedulingPolicy = DEFAULT_SCHEDULER,
        ageing: Ageing | None = None,
        clock: Clock | None = None,
        num_step_rows: int = 0,
        reward: RewardModel | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "page_size": page_size,
            "num_blocks": num_blocks,
            "max_batch_tokens": max_batch_tokens,
            "max_batch_requests": max_batch_requests,
        }
        policy = make_scheduling_policy(scheduler) if isinstance(scheduler, str) else scheduler
        check_positive(**{option: value for option, value in given.items() if value is not None})
        internals = import_internals()
        internals.check_supported(loaded.model, loaded.name)
        _check_places(loaded)
        name = f"continuous({loaded.name})"
        ledger = Ledger(name)
        backend = PagedBackend(ledger)
        backend.loop = make_loop(loaded, backend, **given)
        backend.scheduling = ProgramScheduling(
            Scheduler(policy, limits=_find_limits(backend.loop, page_size), ageing=ageing),
            clock or MonotonicClock(),
            num_rows=num_step_rows,
        )
        abilities = {Ability.SEEDS, Ability.LOGPROBS, Ability.STREAM, Ability.PREFIX_REUSE}
        with ExitStack() as undo:
            undo.callback(backend.stop, 0.0)
            super().__init__(name, loaded, frozenset(abilities), ledger, backend, reward)
            undo.pop_all()
        self._paged = backend
        backend.loop.start()

    def count_pages(self) -> Pages:
        """How full the cache is now."""
        return self._paged.loop.count_pages()

    @property
    def scheduling(self) -> ProgramScheduling:
        """Who decides which requests run."""
        return self._paged.scheduling

    @property
    def thread(self) -> threading.Thread:
        """The thread that runs the model, for measuring its processor time."""
        return self._paged.loop.thread

    @property
    def step_rows(self) -> tuple[StepRow, ...]:
        """The last `num_step_rows` steps that other steps followed at once, to fit an engine model to."""
        return tuple(self._paged.scheduling.rows)

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """A program begins or stands elsewhere now; see `SchedulesPrograms`."""
        self._paged.scheduling.note_program(program_id, plan)

    def note_end(self, program_id: str) -> None:
        """A program is over; see `SchedulesPrograms`."""
        self._paged.scheduling.note_end(program_id)


def import_internals() -> Any:
    """The file with the private names, which another release of transformers may not even let be imported."""
    try:
        from hf_dynasor.serving import _transformers_internals
    except ImportError as error:
        raise UnsupportedError(
            f"Continuous batching of transformers {transformers.__version__} is not what this package knows ({error}). "
            + _ADVICE
        ) from error
    return _transformers_internals


def make_loop(
    loaded: LoadedModel,
    observer: Any,
    *,
    page_size: int,
    num_blocks: int | None,
    max_batch_tokens: int | None,
    max_batch_requests: int | None,
) -> PagedLoop:
    """The loop over a model, which an observer decides for; see `ContinuousBatchingEngine` for the sizes."""
    sizes = _choose_sizes(loaded, page_size, num_blocks, max_batch_tokens)
    try:
        loop: PagedLoop = import_internals().PagedLoop(
            loaded.model, observer, **sizes, max_batch_requests=max_batch_requests
        )
    except ValueError as error:
        raise UnsupportedError(f"Continuous batching cannot run {loaded.name}: {error}. {_ADVICE}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UnsupportedError(
            f"There is not enough memory for the cache of {observer.name} (num_blocks={sizes['num_blocks']}): "
            f"{first_line(error)}. Lower num_blocks. {_ADVICE}"
        ) from error
    return loop


def _check_places(loaded: LoadedModel) -> None:
    """Refuse what cannot share pages: layers without full attention, layers on several devices."""
    if find_cache_kind(loaded.model) != "joinable":
        raise UnsupportedError(
            f"{loaded.name} has layers without full attention, which cannot share pages here. {_ADVICE}"
        )
    if len(loaded.devices) > 1:
        raise UnsupportedError(
            f"The layers of {loaded.name} are on {', '.join(loaded.devices)}, but the pages of continuous batching "
            f"are on one device. {_ADVICE} Or split each layer over processes (--tensor-parallel)."
        )


def _choose_sizes(
    loaded: LoadedModel, page_size: int, num_blocks: int | None, max_batch_tokens: int | None
) -> dict[str, int | None]:
    if loaded.model.device.type == "cpu":
        num_blocks = _fit_num_blocks(loaded, page_size) if num_blocks is None else num_blocks
        max_batch_tokens = CPU_MAX_BATCH_TOKENS if max_batch_tokens is None else max_batch_tokens
    return {"page_size": page_size, "num_blocks": num_blocks, "max_batch_tokens": max_batch_tokens}


def _find_limits(loop: PagedLoop, page_size: int) -> Limits:
    """The step's own; of the memory transformers keeps account, and takes it from who is told to wait."""
    return Limits(max_requests=loop.max_batch_requests, max_tokens=loop.max_batch_tokens, page_size=page_size)


def _fit_num_blocks(loaded: LoadedModel, page_size: int) -> int:
    return max(8, min(CPU_MAX_BLOCKS, CPU_CACHE_BYTES // (loaded.kv_bytes_per_token * page_size)))
