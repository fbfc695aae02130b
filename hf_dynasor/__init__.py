"""hf_dynasor: adaptive test-time compute for Hugging Face models.

Importing it loads neither torch nor transformers; what needs them is loaded on first use. It makes
`pipeline("dynasor-reasoning")` known to transformers, whichever of the two is imported first.
"""

from typing import TYPE_CHECKING, Any

from hf_dynasor._registration import register_when_transformers_is_imported
from hf_dynasor.certaindex import TABLE_1, Certaindex, Thresholds
from hf_dynasor.core import Prompt, SamplingParams, Usage
from hf_dynasor.drivers import arun, run, run_many
from hf_dynasor.errors import HFDynasorError
from hf_dynasor.grants import Answer, Knob
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.programs import MCTS, Beam, BestOfN, Rebase, SelfConsistency
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even, Length, StaticThreshold

if TYPE_CHECKING:
    from hf_dynasor.serving import load_model, make_engine
    from hf_dynasor.serving.solver import Solver, solve
    from hf_dynasor.training import ReasoningEvalCallback

__version__ = "0.1.0"

__all__ = [
    "MCTS",
    "TABLE_1",
    "Answer",
    "Beam",
    "BestOfN",
    "Certaindex",
    "Even",
    "HFDynasorError",
    "Knob",
    "Length",
    "Prompt",
    "ReasoningEvalCallback",
    "ReasoningProgram",
    "Rebase",
    "Recipe",
    "SamplingParams",
    "SelfConsistency",
    "Solver",
    "StaticThreshold",
    "Thresholds",
    "Usage",
    "arun",
    "load_model",
    "make_engine",
    "run",
    "run_many",
    "solve",
]

_NEED_TORCH = {
    "ReasoningEvalCallback": "hf_dynasor.training",
    "Solver": "hf_dynasor.serving.solver",
    "load_model": "hf_dynasor.serving",
    "make_engine": "hf_dynasor.serving",
    "solve": "hf_dynasor.serving.solver",
}

register_when_transformers_is_imported()


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        from importlib import import_module

        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module 'hf_dynasor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TORCH})
