"""`hf-dynasor chat`: questions in the terminal, answered by a program while one watches."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from hf_dynasor.answers import extract_answer
from hf_dynasor.cli.backends import check_backend_options, find_backend_model, open_backend
from hf_dynasor.cli.options import add_model_options, add_program_options, make_recipe
from hf_dynasor.cli.screen import Screen
from hf_dynasor.errors import ConfigurationError, EngineError, HFDynasorError, MissingExtraError

if TYPE_CHECKING:
    from hf_dynasor.engine import Engine
    from hf_dynasor.serving.http.asking import Asker

API_KEY_VARIABLE = "HF_DYNASOR_API_KEY"
MAX_TURNS = 40
"""Turns that are kept; the oldest are dropped first, so that a long evening still fits the context."""

EPILOG = f"""\
examples:
  hf-dynasor chat
  hf-dynasor chat --url http://127.0.0.1:8000 --budget 10
  hf-dynasor chat --model Qwen/Qwen3-0.6B --program chain_of_thought --budget 4096
  printf 'What is 7+8?\\nWhat is 12*34?\\n' | hf-dynasor chat

Shows the first path while it grows, its thinking dimmed, the certaindex after each grant, and what was saved against
the full budget. Without a terminal at its input it takes one question a line, each on its own; without one at its
output, or with NO_COLOR set, it prints no colours. Ctrl-C ends the answer, Ctrl-D (or /quit) the program; /new
forgets the conversation. With --url the program runs on a server, which may ask for the key in {API_KEY_VARIABLE}."""

_SENT = {
    "program": "program",
    "budget": "budget",
    "policy": "policy",
    "detect_at": "detect_at",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_new_tokens": "max_new_tokens",
    "seed": "seed",
    "thinking": "enable_thinking",
    "answer_format": "answer_format",
    "instruction": "instruction",
}
"""Options that a server is told of, by its field's name."""
_OWN = {"url", "run", "command", "argv"}


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """The options of `chat`."""
    parser.add_argument("--url", help="a running server; without it the model is loaded here")
    add_model_options(parser)
    add_program_options(parser)
    parser.set_defaults(run=run_chat)


def run_chat(arguments: argparse.Namespace) -> int:
    """Ask until the input ends."""
    if arguments.json:
        raise ConfigurationError("chat prints for people. Use `hf-dynasor solve --json` or `batch` for JSON.")
    screen = Screen(sys.stdout)
    with _open_asker(arguments) as asker:
        return Chat(asker, screen).run(is_terminal=sys.stdin.isatty())


class Chat:
    """One conversation.

    Args:
        asker: Answers.
        screen: Where they are shown.
    """

    def __init__(self, asker: Asker, screen: Screen) -> None:
        self._asker, self._screen = asker, screen
        self._turns: list[dict[str, str]] = []

    def run(self, *, is_terminal: bool) -> int:
        """Questions from standard input until it ends; 0, or 1 where one of a pipe's could not be answered."""
        if is_terminal:
            self._screen.greet(self._asker.label)
        has_failed = False
        for line in _read_terminal() if is_terminal else sys.stdin:
            question = line.strip()
            if question == "/quit":
                break
            if question == "/new" or not is_terminal:
                self._turns.clear()
            if question and question != "/new":
                has_failed |= not self._answer(question)
        return 1 if has_failed and not is_terminal else 0

    def _answer(self, question: str) -> bool:
        if not sys.stdin.isatty():
            self._screen.show_question(question)
        turns = [*self._turns[-MAX_TURNS:], {"role": "user", "content": question}]
        try:
            reply = asyncio.run(self._follow(turns))
        except KeyboardInterrupt:
            self._screen.note("(stopped)")
            return False
        except HFDynasorError as error:
            self._screen.end_line()
            print(f"hf-dynasor: {error}", file=sys.stderr, flush=True)
            return False
        if reply is not None:
            self._turns = [*turns, {"role": "assistant", "content": reply}]
        return reply is not None

    async def _follow(self, turns: list[dict[str, str]]) -> str | None:
        """Show one answer; the text to remember."""
        self._screen.begin(self._asker.make_splitter(turns))
        texts: list[str] = []
        events = self._asker.ask(turns)
        try:
            async for kind, data in events:
                self._screen.show(kind, data)
                if kind == "completion" and data["finish_reason"] != "cancelled":
                    texts.append(data["text"])
                if kind == "failed":
                    raise EngineError(str(data.get("error")))
                if kind == "completed":
                    return self._choose_reply(turns, texts, data["answer"])
        finally:
            await events.aclose()
        return None

    def _choose_reply(self, turns: list[dict[str, str]], texts: list[str], answer: str | None) -> str:
        """The first path that states the answer, without its thinking."""
        stating = [text for text in texts if answer is not None and extract_answer(text) == answer]
        if not stating:
            return answer if answer is not None else next(iter(texts), "")
        splitter = self._asker.make_splitter(turns)
        return (splitter.push(stating[0]).content + splitter.finish().content).strip() or str(answer)


def _read_terminal() -> Iterator[str]:
    """Lines typed at a prompt, with the usual keys; Ctrl-C empties the line, Ctrl-D ends."""
    import importlib.util

    if importlib.util.find_spec("readline") is not None:  # not on every system
        import readline  # noqa: F401
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print("  (Ctrl-D ends)", flush=True)
        except EOFError:
            print(flush=True)
            return


@contextmanager
def _open_asker(arguments: argparse.Namespace) -> Iterator[Asker]:
    try:
        from hf_dynasor.serving.http import asking
    except ImportError as error:
        raise MissingExtraError(
            f"chat needs the package {error.name!r}: pip install 'hf-dynasor[serve,remote]'."
        ) from None
    if arguments.url is not None:
        if arguments.backend is not None:
            raise ConfigurationError(
                "Got --url and --backend: the programs run there, or here. Expected one."
            )
        yield asking.RemoteAsker(
            arguments.url, read_fields(arguments), api_key=os.environ.get(API_KEY_VARIABLE)
        )
        return
    recipe = make_recipe(arguments)
    with ExitStack() as stack:
        yield _open_local(arguments, recipe, stack)


def _open_local(arguments: argparse.Namespace, recipe: Any, stack: ExitStack) -> Asker:
    from transformers.utils import logging as transformers_logging

    from hf_dynasor.serving.http.asking import LocalAsker
    from hf_dynasor.serving.http.model_info import ServedModel
    from hf_dynasor.serving.loading import load_model
    from hf_dynasor.serving.serve_engine import make_serving_engine

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    if check_backend_options(arguments):
        loaded, name, _ = find_backend_model(arguments)
        engine: Engine = open_backend(arguments, tokenizer=loaded)
    else:
        loaded = load_model(
            arguments.model,
            dtype=arguments.dtype,
            device=arguments.device,
            quantization=arguments.quantization,
        )
        engine, name = make_serving_engine(loaded, arguments.engine), loaded.name
    stack.callback(engine.close)
    return LocalAsker(engine, ServedModel(loaded, name, 0), recipe, timeout_s=arguments.timeout)


def read_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a server is told: the options that were given. The others are the server's to choose.

    Raises:
        ConfigurationError: An option was given that no server can be told.
    """
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_program_options(parser)
    defaults = vars(parser.parse_args([]))
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name not in _OWN and value != defaults.get(name)
    }
    if unknown := sorted(set(given) - set(_SENT)):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
        raise ConfigurationError(f"Got {options} with --url, but the server was told that when it started.")
    return {_SENT[name]: value for name, value in given.items()}
