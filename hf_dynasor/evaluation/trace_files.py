"""Opens files of traces, compressed or not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TextIO, cast

GZIP = ".gz"


def open_text(path: Path, *, errors: str = "strict") -> TextIO:
    """A file of traces to read as text, a byte-order mark left out; one that ends in `.gz` is decompressed.

    Raises:
        OSError: It cannot be opened.
    """
    if path.suffix == GZIP:
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig", errors=errors))
    return path.open(encoding="utf-8-sig", errors=errors)


def name_stem(path: Path) -> str:
    """A file's name without its endings.

    Examples:
        >>> name_stem(Path("runs/boundary_model.jsonl.gz")), name_stem(Path("a.v2.jsonl"))
        ('boundary_model', 'a.v2')
    """
    return path.name.removesuffix(GZIP).removesuffix(".jsonl")
