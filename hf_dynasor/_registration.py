"""Makes the task `dynasor-reasoning` known to transformers, without importing transformers."""

from __future__ import annotations

import wrapt

TASK = "dynasor-reasoning"


def register_when_transformers_is_imported() -> None:
    """Register the pipeline at once where `transformers.pipelines` is loaded, else as soon as it is."""
    wrapt.register_post_import_hook(_register, "transformers.pipelines")


def _register(module: object) -> None:
    from hf_dynasor.pipelines import register_pipeline

    register_pipeline(TASK)
