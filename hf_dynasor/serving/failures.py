"""Says why an engine cannot begin or had to end, and what to do then. Knows no engine."""

from __future__ import annotations

import torch

# How CUDA's and the CPU's allocators word it where the error is a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the device or the host, did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def describe_error(error: BaseException | None) -> str:
    """The type and message of what ended an engine's thread."""
    return f"{type(error).__name__}: {error}" if error is not None else "its thread ended"


def describe_death(error: BaseException | None, *, sizes: str) -> str:
    """What `check_health` says of an engine that died.

    Args:
        error: What ended its thread, where that is known.
        sizes: The engine's options to lower when memory ran out.
    """
    remedy = f" with a lower {sizes}" if error is not None and is_out_of_memory(error) else ""
    return (
        f"died, and every request in flight failed with it: {describe_error(error)}. It takes no more requests: "
        f"close it and make a new engine{remedy}."
    )
