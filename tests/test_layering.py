"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_dynasor

PACKAGE = Path(hf_dynasor.__file__).parent
PURE_ROOMS = ("certaindex", "answers", "programs", "scheduler", "stopping", "evaluation", "cli")

# A room (or root module) -> what of the package it may import besides itself and the vocabulary.
VOCABULARY = {"core", "engine", "errors", "clock", "paths"}
BASE = VOCABULARY | {"certaindex", "grants"}
MAY_IMPORT = {
    "core": {"errors"},
    "engine": {"core", "errors"},
    "errors": set(),
    "clock": set(),
    "paths": {"core", "errors"},
    "drawing": {"paths"},
    "certaindex": {"errors"},
    "answers": {"errors"},
    "grants": VOCABULARY | {"certaindex", "drawing"},
    "snapshots": {"core", "errors"},
    "seeds": {"core"},
    "program": BASE | {"snapshots", "seeds"},
    "drivers": BASE | {"program", "program_plan", "program_run"},
    "program_plan": {"certaindex", "errors"},
    "program_run": BASE | {"program", "program_plan"},
    "testing": VOCABULARY,
    "programs": BASE | {"program", "answers"},
    "scheduler": BASE,
    "stopping": BASE | {"answers"},
    "program_options": BASE | {"program", "snapshots", "programs", "stopping"},
    "recipe": BASE | {"program", "program_options", "answers", "programs", "scheduler"},
    "embedded": set(),
    "serving": BASE
    | {"program", "drivers", "program_plan", "program_run", "recipe", "embedded", "scheduler", "stopping"}
    | {"answers", ""},
    "evaluation": BASE
    | {
        "program_options",
        "program",
        "drivers",
        "recipe",
        "answers",
        "programs",
        "scheduler",
        "snapshots",
        "stopping",
        "",
    },
    "pipelines": BASE | {"drivers", "embedded", "hub_pipeline", "program", "recipe", "serving", "stopping"},
    "hub_pipeline": {"pipelines"},
    "training": {"errors", "evaluation", "recipe", "serving"},
    "_registration": {"pipelines"},
    "cli": BASE
    | {"program_options"}
    | {"program", "answers", "programs", "scheduler", "recipe", "embedded", "evaluation", "serving", ""},
    "__main__": {"cli"},
}


def iter_imports(path):
    """Names of the package's rooms that a file imports, and whether at import time."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hf_dynasor":
            yield [*node.module.split("."), ""][1]
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "hf_dynasor":
                    yield [*alias.name.split("."), ""][1]


def list_files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", list_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_import_is_in_the_table(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in MAY_IMPORT, f"{room} is not in the table of rooms"
    assert set(iter_imports(path)) - {room} <= MAY_IMPORT[room]


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sympy", "math_verify", "numpy"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    "room", ["", *(f".{name}" for name in (*PURE_ROOMS, "testing", "recipe", "embedded.problems"))]
)
def test_pure_parts_import_with_torch_blocked(room):
    result = run_python(f"{BLOCK}import hf_dynasor{room}")
    assert result.returncode == 0, result.stderr


def test_importing_the_package_loads_neither_torch_nor_transformers():
    result = run_python(
        "import sys, hf_dynasor; print([n for n in ('torch', 'transformers', 'sympy') if n in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_the_package_takes_under_half_a_second():
    """The best of five, so that a busy machine does not fail it: the claim is about the package, not the load."""
    code = "import time; t = time.process_time(); import hf_dynasor; print(time.process_time() - t)"
    assert min(float(run_python(code).stdout) for _ in range(5)) < 0.5


def constants_classes_functions(name):
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_public_names_are_sorted_and_exist():
    for name in (
        "",
        ".answers",
        ".certaindex",
        ".programs",
        ".scheduler",
        ".stopping",
        ".evaluation",
        ".serving",
        ".serving.remote",
        ".cli",
        ".embedded",
    ):
        module = __import__(f"hf_dynasor{name}", fromlist=["*"])
        assert list(module.__all__) == sorted(module.__all__, key=constants_classes_functions), name
        for public in module.__all__:
            assert getattr(module, public) is not None


def test_an_unknown_name_of_the_package_raises():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_dynasor.nothing  # noqa: B018


REGISTERED = "from transformers.pipelines import PIPELINE_REGISTRY as r; assert 'dynasor-reasoning' in r.supported_tasks"


@pytest.mark.parametrize(
    "order",
    [
        "import hf_dynasor, transformers",
        "import transformers, hf_dynasor",
        "import transformers.pipelines, hf_dynasor",
        "import hf_dynasor; from transformers import pipeline",
    ],
)
def test_the_pipeline_is_known_whichever_package_comes_first(order):
    result = run_python(f"{order}\n{REGISTERED}")
    assert result.returncode == 0, result.stderr
