"""Makes the task `dynasor-reasoning` known to transformers, without importing transformers."""

from __future__ import annotations

import sys

import wrapt

TASK = "dynasor-reasoning"

_LAST_NAMES = {
    "hf_dynasor.pipelines": "register_pipeline",
    "hf_dynasor.hub_pipeline": "HubReasoningPipeline",
}
"""Our modules that import transformers, and what each has once it is complete."""


def register_when_transformers_is_imported() -> None:
    """Register the pipeline at once where `transformers.pipelines` is loaded, else as soon as it is."""
    for name in ("transformers.pipelines", *_LAST_NAMES):
        wrapt.register_post_import_hook(_register, name)


def _register(module: object) -> None:
    # Where one of ours is what imports transformers, it is not complete yet: its own hook runs at its end.
    if any(
        name in sys.modules and not hasattr(sys.modules[name], last) for name, last in _LAST_NAMES.items()
    ):
        return
    from hf_dynasor.pipelines import register_pipeline

    register_pipeline(TASK)
