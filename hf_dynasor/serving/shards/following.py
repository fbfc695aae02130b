"""What a process does that does not drive: it runs the same steps over its part of the model until the driver ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hf_dynasor.errors import EngineError
from hf_dynasor.serving.continuous_engine import import_internals, make_loop
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.program_scheduling import Computed

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class Follower:
    """An observer without an opinion: what is decided comes from the driver.

    Attributes:
        error: What ended the loop, if anything but the driver's wish.
    """

    name = "follower"

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """Never asked."""
        raise EngineError("A process that follows was asked to draw.")

    def enqueue(self, name: str) -> None:
        """Nothing to do."""

    def choose(self) -> Sequence[str]:
        """Never asked."""
        raise EngineError("A process that follows was asked to choose.")

    def note_run(self, computed: Sequence[Computed]) -> None:
        """Nothing to do."""

    def find_parked(self) -> str | None:
        """Never asked."""
        raise EngineError("A process that follows was asked whose pages to take.")

    def mark_started(self, name: str) -> None:
        """Nothing to do."""

    def count_reused(self, name: str, num_tokens: int) -> None:
        """Nothing to do."""

    def confirm_cancelled(self, names: Sequence[str]) -> None:
        """Nothing to do."""

    def end(self, error: BaseException | None) -> None:
        """The loop is over."""
        self.error = error


def follow(
    loaded: LoadedModel,
    *,
    on_start: Callable[[], None] = lambda: None,
    page_size: int = 16,
    num_blocks: int | None = None,
    max_batch_tokens: int | None = None,
    max_batch_requests: int | None = None,
) -> None:
    """Run the driver's steps over this process's part of the model until the driver ends.

    Args:
        loaded: The part, from `load_model(..., tensor_parallel=N)`.
        on_start: Called once the group steps together.
        page_size, num_blocks, max_batch_tokens, max_batch_requests: As the driver's engine has them.

    Raises:
        EngineError: The driver died, or this process cannot go on.
    """
    import_internals().check_supported(loaded.model, loaded.name)
    observer = Follower()
    loop = make_loop(
        loaded,
        observer,
        page_size=page_size,
        num_blocks=num_blocks,
        max_batch_tokens=max_batch_tokens,
        max_batch_requests=max_batch_requests,
    )
    loop.start()
    on_start()
    loop.join()
    if observer.error is not None:
        raise EngineError(f"The shard group is over: {observer.error}") from observer.error


__all__ = ["Follower", "follow"]
