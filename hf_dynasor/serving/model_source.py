"""Where a model is: the embedded one, a folder, a GGUF file, or a name on the hub. Loads nothing."""

from __future__ import annotations

import http.client
import importlib.util
import logging
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from hf_dynasor.errors import MissingExtraError, ModelLoadError

logger = logging.getLogger(__name__)

EMBEDDED_NAME = "embedded"
_HUB_TIMEOUT_S = 5.0


def locate_model(source: str | Path, local_files_only: bool | None) -> tuple[str, str, dict[str, Any]]:
    """Where transformers should look.

    The text `"embedded"` always names the package's own model; `"./embedded"` or `Path("embedded")` is the folder.

    Returns:
        What to pass as name, what to call it, and further options for `from_pretrained`.

    Raises:
        ModelLoadError: Nothing that could be a model is there.
        MissingExtraError: A GGUF file without the `gguf` package.
    """
    if source == EMBEDDED_NAME:
        return str(_find_embedded()), EMBEDDED_NAME, {"local_files_only": True}
    name = str(source)
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelLoadError(f"No such file: {name!r}.")
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError("GGUF files need the gguf package: pip install 'hf-dynasor[gguf]'.")
        return str(path.parent), path.stem, {"gguf_file": path.name, "local_files_only": True}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(
                f"Folder {name!r} holds no config.json that can be read: it is not a transformers model."
            )
        return str(path), path.name or name, {"local_files_only": True}
    if path.exists():
        raise ModelLoadError(f"{name!r} is a file, but neither a model folder nor a .gguf file.")
    if isinstance(source, Path) or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise ModelLoadError(f"No such folder: {name!r}.")
    return name, name, {"local_files_only": _must_stay_local(local_files_only)}


def _find_embedded() -> Path:
    try:
        from hf_dynasor.embedded import REASONER_PATH
    except ImportError as error:
        raise ModelLoadError(
            "The embedded model is not part of this installation. Name another model."
        ) from error
    return Path(REASONER_PATH)


def _must_stay_local(local_files_only: bool | None) -> bool:
    """Whether to look into the local cache only: told so, or the hub does not answer.

    Asked for a file while offline, huggingface_hub retries for 20 seconds and more per file; one short
    question first makes that a few seconds in all.
    """
    if local_files_only is not None:
        return local_files_only
    if constants.HF_HUB_OFFLINE:
        return True
    try:
        with urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_TIMEOUT_S
        ):
            return False
    except urllib.error.HTTPError:
        return False  # it answered
    except (OSError, http.client.HTTPException):
        logger.info("%s does not answer: using what the local cache has.", constants.ENDPOINT)
        return True


def explain_missing(name: str, source: str, error: BaseException, options: dict[str, Any]) -> str:
    """One line on why a model's configuration could not be read."""
    is_hub_name = not Path(source).exists()
    if is_hub_name and isinstance(error, OSError) and options.get("local_files_only"):
        return (
            f"Model {name!r} is neither a local folder nor in the local cache, and {constants.ENDPOINT} cannot be "
            "asked (offline). Pass a folder or a .gguf file, or go online once to download it."
        )
    return f"Cannot load model {name!r}: {first_line(error)}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]
