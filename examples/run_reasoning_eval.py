"""Evaluate a model with a reasoning program: accuracy, net tokens, and what each question was granted.

python examples/run_reasoning_eval.py --data_file questions.jsonl --output_dir runs/static
python examples/run_reasoning_eval.py --task gsm8k --model_name_or_path Qwen/Qwen3-0.6B --output_dir runs/gsm8k
python examples/run_reasoning_eval.py arguments.yaml --budget 10 --output_dir runs/ten
accelerate launch --num_processes 2 examples/run_reasoning_eval.py arguments.yaml

Run the same command again after a crash or Ctrl-C: it goes on where it stood.
"""

import sys

from hf_dynasor import HFDynasorError, make_engine
from hf_dynasor.evaluation.script import run_script
from hf_dynasor.evaluation.script_arguments import parse_script_arguments


def main() -> int:
    """Parse, evaluate, print the totals."""
    try:
        arguments = parse_script_arguments()
        model = arguments.model

        def open_engine(device):
            return make_engine(model.model_name_or_path, **model.list_engine_options(device))

        run = run_script(arguments, open_engine)
    except HFDynasorError as error:
        print(f"run_reasoning_eval: error: {error}", file=sys.stderr)
        return 2
    for name, value in run.totals.to_dict().items():
        print(f"{name:18} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
