"""The arguments of an evaluation script, for transformers' `HfArgumentParser`: flags, or a JSON or YAML file and flags."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_dynasor.certaindex import TABLE_1
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.policy_specs import parse_policy_spec
from hf_dynasor.evaluation.tasks import TaskTemplate
from hf_dynasor.evaluation.templates import TEMPLATES
from hf_dynasor.program import DEFAULT_INSTRUCTION
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import POLICIES

REPORTERS = ("tensorboard", "wandb", "none")


def _say(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class ModelArguments:
    """Which model, and what runs it."""

    model_name_or_path: str = _say("embedded", "Hub name, local folder, FILE.gguf, or 'embedded'.")
    model_revision: str | None = _say(None, "Branch, tag or commit of a hub model.")
    trust_remote_code: bool = _say(False, "Run code that comes with the checkpoint.")
    engine: str = _say("auto", "auto, generate or continuous.")
    dtype: str = _say("auto", "auto, float32, bfloat16 or float16.")
    device: str = _say(
        "auto", "auto, cpu, cuda, cuda:1, ...; with several processes auto gives each its own."
    )
    quantization: str | None = _say(None, "bnb-8bit or bnb-4bit (needs the extra quant).")
    attn_implementation: str | None = _say(None, "Passed on to transformers.")
    scheduler: str | None = _say(None, "Which programs go first; engine continuous.")
    reward_model: str | None = _say("auto", "What rates steps: a name, a folder, likelihood.")

    def list_engine_options(self, device: str | None = None) -> dict[str, Any]:
        """Keyword arguments of `make_engine`, but for the model; those that say nothing are left out.

        Args:
            device: Takes the place of `auto`.
        """
        options = {
            "engine": self.engine,
            "dtype": self.dtype,
            "device": device if device and self.device == "auto" else self.device,
            "quantization": self.quantization,
            "revision": self.model_revision,
            "trust_remote_code": self.trust_remote_code or None,
            "attn_implementation": self.attn_implementation,
            "scheduler": self.scheduler,
            "reward": self.reward_model,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(kw_only=True)
class DataArguments:
    """Which questions."""

    task: str = _say("plain", f"How rows become questions: {', '.join(TEMPLATES)}, or FILE.yaml.")
    dataset_name: str | None = _say(None, "Name on the hub; by default the task's own.")
    dataset_config_name: str | None = _say(None, "Configuration of the data set.")
    dataset_split: str | None = _say(None, "Split; by default the task's own, mostly test.")
    data_file: str | None = _say(None, "Local .jsonl, .json, .parquet or .csv, not the hub.")
    max_eval_samples: int | None = _say(None, "Take only the first N questions.")


@dataclass(kw_only=True)
class ProgramArguments:
    """Which program, policy and sampling."""

    program: str = _say("self_consistency", f"One of: {', '.join(PROGRAMS)}.")
    policy: str | None = _say(
        None,
        f"One of: {', '.join(sorted(POLICIES))}; NAME:option=value,...; a row of the paper's Table 1 such as sc/gsm8k; "
        "or a FILE.json of hf-dynasor calibrate.",
    )
    budget: int | None = _say(None, "Most samples, width, tokens, ...; default: the program's own.")
    program_options: str | None = _say(None, 'Its own options as JSON: \'{"vote": "certainty"}\'.')
    temperature: float = _say(0.7, "0 is greedy.")
    top_p: float = _say(1.0, "In (0, 1].")
    top_k: int | None = _say(None, "Keep the k likeliest tokens.")
    max_new_tokens: int = _say(512, "Most tokens of one sample.")
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Every question is asked with each of them."}
    )
    prompt_format: str = _say("chat", "chat or plain.")
    system: str | None = _say(None, "System message; chat only.")
    instruction: str | None = _say(None, "Appended to a question; default: the task's own.")
    thinking: bool | None = _say(None, "Ask the chat template for (no) thinking.")
    logprobs: bool = _say(False, "Record answer probabilities.")
    answer_format: str | None = _say(None, "How answers are read; default: the task's own.")
    run_code: bool = _say(False, "Let code tasks run what the model wrote, in a sandbox.")

    def make_recipe(self, template: TaskTemplate, *, record_trace: bool = False) -> Recipe:
        """The recipe of every question; its seed is left to each run.

        Args:
            template: Says the instruction and the format where nothing else is named.
            record_trace: The full budget is run where no policy is named.

        Raises:
            ConfigurationError: A name or a value that cannot work.
        """
        instruction = template.instruction if self.instruction is None else self.instruction
        format: Any = self.answer_format or template.answer_format
        prompt_format: Any = self.prompt_format
        return Recipe(
            program=self.program,
            policy=_read_policy(self.policy or ("even" if record_trace else None)),
            budget=self.budget,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
            logprobs=self.logprobs,
            prompt_format=prompt_format,
            system=self.system,
            instruction=DEFAULT_INSTRUCTION if instruction is None else instruction,
            enable_thinking=self.thinking,
            answer_format=format,
            program_options=_read_options(self.program_options),
        )


@dataclass(kw_only=True)
class RunArguments:
    """Where the results go, and how the run is driven."""

    output_dir: str | None = _say(None, "Folder of the run; needed.")
    overwrite_output_dir: bool = _say(
        False, "Remove the run in it and start anew; else it is taken up again."
    )
    run_name: str | None = _say(None, "What to call it in tables.")
    report_to: str = _say("none", f"One of: {', '.join(REPORTERS)}.")
    logging_steps: int = _say(10, "Report after every so many questions.")
    max_active: int = _say(16, "Questions in flight in each process.")
    timeout: float = _say(600.0, "Seconds that the engine may go without progress.")
    record_trace: bool = _say(False, "Write trace.jsonl, to replay policies on; the policy must be even.")
    disable_tqdm: bool = _say(False, "No progress bar.")

    def __post_init__(self) -> None:
        if self.report_to not in REPORTERS:
            raise ConfigurationError(
                f"Got report_to {self.report_to!r} but expected one of {', '.join(REPORTERS)}."
            )
        for name in ("logging_steps", "max_active", "timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"Got {name} {getattr(self, name)} but expected more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptArguments:
    """All arguments of an evaluation."""

    model: ModelArguments
    data: DataArguments
    program: ProgramArguments
    run: RunArguments

    def to_dict(self) -> dict[str, Any]:
        """One flat object, as an argument file has it."""
        return {**asdict(self.model), **asdict(self.data), **asdict(self.program), **asdict(self.run)}


def parse_script_arguments(argv: Sequence[str] | None = None) -> ScriptArguments:
    """The arguments of a command line: flags, which may follow one `FILE.yaml` or `FILE.json` that they overrule.

    Raises:
        ConfigurationError: An argument is unknown or missing; the message names it.
        InputError: The file cannot be read, or holds an unknown field.
        SystemExit: For `--help`, and for a value that argparse refuses.
    """
    from transformers import HfArgumentParser

    words = list(sys.argv[1:] if argv is None else argv)
    kinds: tuple[Any, ...] = (ModelArguments, DataArguments, ProgramArguments, RunArguments)
    parser = HfArgumentParser(kinds)
    if words and words[0].endswith((".yaml", ".yml", ".json")):
        known = {item.name for kind in kinds for item in fields(kind)}
        parser.set_defaults(**read_argument_file(words.pop(0), known))
    try:
        model, data, program, run = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except ValueError as error:
        raise ConfigurationError(f"{error} See --help.") from None
    if not run.output_dir:
        raise ConfigurationError("Got no --output_dir. Expected the folder for the run.")
    return ScriptArguments(model=model, data=data, program=program, run=run)


def read_argument_file(path: str, known: set[str]) -> dict[str, Any]:
    """The fields of a JSON or YAML file.

    Raises:
        InputError: It cannot be read, or a field is unknown.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        row = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Cannot read the arguments in {path}: {' '.join(str(error).split())}.") from None
    if not isinstance(row, dict):
        raise InputError(f"{path} is {type(row).__name__} but expected arguments and values.")
    for name in row:
        if name not in known:
            raise InputError(f"{path}: unknown argument {name!r}. Known: {', '.join(sorted(known))}.")
    if isinstance(row.get("program_options"), dict):
        row["program_options"] = json.dumps(row["program_options"])
    return row


def _read_policy(text: str | None) -> Any:
    """A policy by name as a recipe takes it; one with options, or of Table 1, is built."""
    if text is None or not (":" in text or text in TABLE_1):
        return text
    return parse_policy_spec(text).build_width()


def _read_options(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"Got --program_options {text!r}, which is not JSON ({error}).") from None
    if not isinstance(options, dict):
        raise ConfigurationError(f"Got --program_options {text!r} but expected a JSON object.")
    return options
