"""`--backend`: the model runs on an OpenAI-compatible server, the programs run here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hf_dynasor.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_dynasor.serving.remote import RemoteEngine

DIALECT_NAMES = ("auto", "hf_dynasor", "llama.cpp", "openai", "sglang", "tgi", "transformers", "vllm")
_OF_THIS_PROCESS = {
    "engine": "auto",
    "dtype": "auto",
    "device": "auto",
    "quantization": None,
    "device_map": None,
    "tensor_parallel": 1,
}
_OF_BACKENDS = {"dialect": "auto", "tokenizer": "auto", "max_in_flight": 32}


def add_backend_options(parser: argparse.ArgumentParser, positive: Any) -> None:
    """Which server, and how it is spoken to; `positive` reads numbers of at least 1."""
    group = parser.add_argument_group("a model on another server (docs/remote.md)")
    group.add_argument(
        "--backend",
        metavar="URL",
        help="an OpenAI-compatible server that runs the model, http://HOST:PORT/v1; --model is its name there "
        "(default: its only one). The API key comes from the variable HF_DYNASOR_BACKEND_API_KEY",
    )
    group.add_argument(
        "--dialect",
        default="auto",
        choices=DIALECT_NAMES,
        help="what kind of server it is (default: it is asked)",
    )
    group.add_argument(
        "--tokenizer",
        default="auto",
        metavar="NAME",
        help="the model's: hub name, folder, FILE.gguf, or 'none' (default: the server's own, else by its name for "
        "the model)",
    )
    group.add_argument(
        "--max-in-flight", type=positive, default=32, help="requests at the server at once (default: 32)"
    )


def check_backend_options(arguments: argparse.Namespace) -> bool:
    """Whether there is a backend.

    Raises:
        ConfigurationError: An option that only a backend has, without one; or with one, an option that only a model in
            this process has.
    """
    has_backend = arguments.backend is not None
    for option, usual in (_OF_THIS_PROCESS if has_backend else _OF_BACKENDS).items():
        value = getattr(arguments, option, usual)
        if value != usual:
            name = f"--{option.replace('_', '-')}"
            why = (
                "but the server of --backend runs the model in its own way"
                if has_backend
                else "which only --backend URL reads"
            )
            raise ConfigurationError(f"Got {name} {value}, {why}. Leave it out.")
    return has_backend


def open_backend(arguments: argparse.Namespace, **options: Any) -> RemoteEngine:
    """The engine that the options describe.

    Raises:
        EngineError: There is no server there, or not now.
        ConfigurationError: The options cannot work, the key is refused, or the server has not that model.
    """
    from hf_dynasor.serving.remote import make_remote_engine

    tokenizer = None if arguments.tokenizer == "none" else arguments.tokenizer
    given = {
        "tokenizer": tokenizer,
        "dialect": arguments.dialect,
        "max_in_flight": arguments.max_in_flight,
        "scheduler": arguments.scheduler,
        "reward": arguments.reward_model,
        "reward_kind": arguments.reward_kind,
    }
    return make_remote_engine(arguments.backend, arguments.model, **{**given, **options})


def find_backend_model(arguments: argparse.Namespace) -> tuple[Any, str, int | None]:
    """The tokenizer of a backend's model, what the backend calls it, and how many tokens it takes.

    Raises:
        ConfigurationError: There is no tokenizer, which a server or a batch cannot do without; and as `open_backend`.
    """
    from hf_dynasor.serving.remote.making import find_served_tokenizer

    if arguments.tokenizer == "none":
        raise ConfigurationError(
            "Got --tokenizer none, but this command reads tokens. Name the model's tokenizer, or leave the option out."
        )
    with open_backend(arguments, reward=None, reward_kind="auto") as engine:
        return find_served_tokenizer(engine), engine.found.model, engine.found.max_length
