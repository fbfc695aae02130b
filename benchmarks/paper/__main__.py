"""The paper's figures and tables, one command each: python benchmarks/paper NAME [--runs FOLDER] [--traces FOLDER]

NAME is record (the runs that the others are replayed from), a figure or table (fig_8, table_1, ...), all, or page:
docs/paper.md from what was measured, with what other benchmarks measured read anew (no runs are needed).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from figures import FIGURES, Options
from page import write_page, write_result
from record import RECORDINGS, record


def main() -> int:
    """Measure what is named, print it, keep it, and write the page."""
    arguments = _parse()
    if arguments.name == "record":
        record(arguments.runs, arguments.only, arguments.num_questions, arguments.max_active)
        return 0
    options = Options(runs=arguments.runs, traces=arguments.traces)
    read = [name for name, figure in FIGURES.items() if figure.is_read]
    names = {"all": list(FIGURES), "page": read}.get(arguments.name, [arguments.name])
    for name in names:
        rows, raw = FIGURES[name].measure(options)
        write_result(name, FIGURES[name], rows, raw)
        print(f"\n{name}: {FIGURES[name].title}")
        for what, paper, ours in rows:
            print(f"  {what}\n    paper: {paper}\n    here:  {ours}")
        print(json.dumps({"benchmark": f"paper/{name}", "rows": rows}, ensure_ascii=False))
    write_page(list(FIGURES))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["record", "all", "page", *FIGURES], metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="recorded runs (runs/paper)")
    parser.add_argument("--traces", type=Path, help="folder of recorded traces of other models")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=list(RECORDINGS), help="with record: these runs"
    )
    parser.add_argument("--num-questions", type=int, help="with record: only the first N questions")
    parser.add_argument("--max-active", type=int, default=48, help="with record: questions in flight (48)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
