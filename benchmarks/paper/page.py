"""Writes docs/paper.md from the results of every figure; the same results give the same page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "paper"
PAGE = ROOT / "docs" / "paper.md"

HEAD = """# The paper's figures and tables, beside ours

"Efficiently Serving LLM Reasoning Programs with Certaindex" (arXiv 2412.20993, first version), figure by figure: the paper's
number, and what this project measures of the same thing. The models differ (8B and more there; here the embedded reasoner,
three million parameters, on generated questions, and recorded traces of other models), so shapes can be compared and sizes cannot.
Where the paper's text that was at hand does not say what a figure holds, the title is our reading of it.

```bash
python benchmarks/paper record --runs runs/paper
python benchmarks/paper fig_8 --runs runs/paper
python benchmarks/paper all --runs runs/paper --traces FOLDER
```

One name makes one figure; this page is written by `python benchmarks/paper page` from `benchmarks/results/paper/*.json`, and a
test holds the two together. Intervals are at 95%, over questions, paired where two things are compared.
"""


def write_result(name: str, figure: Any, rows: list[Any], raw: Any) -> None:
    """Keep what was measured."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {
        "figure": name,
        "title": figure.title,
        "command": figure.command,
        "remark": figure.remark,
        "rows": [list(row) for row in rows],
    }
    if raw is not None:
        result["measured"] = raw
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def render(results: list[dict[str, Any]]) -> str:
    """The page."""
    parts = [HEAD]
    for result in results:
        name = result["figure"].replace("_", " ").replace("fig ", "Figure ").replace("table ", "Table ")
        table = "\n".join(f"| {' | '.join(map(_escape, row))} |" for row in result["rows"])
        remark = f"\n{result['remark']}\n" if result["remark"] else ""
        parts.append(
            f"## {name}: {result['title']}\n\nMeasured by `{result['command']}`.\n{remark}\n"
            f"| | the paper | here |\n|---|---|---|\n{table}\n"
        )
    return "\n".join(parts)


def read_results(order: list[str]) -> list[dict[str, Any]]:
    """What was measured, in the order of the paper."""
    found = [RESULTS / f"{name}.json" for name in order]
    return [json.loads(path.read_text()) for path in found if path.is_file()]


def write_page(order: list[str]) -> None:
    """Write docs/paper.md."""
    PAGE.write_text(render(read_results(order)))


def _escape(text: str) -> str:
    return str(text).replace("|", "\\|")
