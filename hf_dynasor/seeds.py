"""One seed for a program, and from it one for each of its requests."""

from __future__ import annotations

import hashlib

from hf_dynasor.core import MAX_SEED


def derive_seed(seed: int | None, *path: object) -> int | None:
    """A seed for one request, from the program's seed and the request's place; `None` stays `None`.

    Examples:
        >>> derive_seed(7, "sample", 0) == derive_seed(7, "sample", 0) != derive_seed(7, "sample", 1)
        True
    """
    if seed is None:
        return None
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED
