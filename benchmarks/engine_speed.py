"""Speed of the local engines beside plain `model.generate`, on one thread, in turn.

Four workloads: a full batch of equal lengths (what a static batch is best at), self-consistency (programs
asking for 5 samples and then 15 more, of uneven length), a crowd of requests of which one in twenty runs on for five
times as long, and one request alone. Prints a table, then one JSON line. Speeds are per second of processor time, so that other work on the machine counts for little; quote the
ratios. About a minute of processor time.

    python benchmarks/engine_speed.py [--model tiny] [--rounds 3] [--tokens 48]
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_dynasor.core import (
    Completion,
    Event,
    FinishReason,
    Generate,
    Prompt,
    RequestKey,
    SamplingParams,
    TokenIds,
)
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, LoadedModel, load_model
from hf_dynasor.serving.local_engine import LocalEngine

TIMEOUT_S = 600.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every workload on every engine, in turn."""
    options = _parse_options(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    loaded = _load(options.model)
    _plain(loaded, [0], 8)  # the first run of a process is slower than all others
    results: dict[str, dict[str, float]] = {}
    for workload, (measure_plain, measure_engine) in WORKLOADS.items():
        runs: dict[str, list[float]] = {"model.generate": [], "generate": [], "continuous": []}
        for _ in range(options.rounds):
            runs["model.generate"].append(measure_plain(loaded, options.tokens))
            for name, engine_class in (
                ("generate", GenerateEngine),
                ("continuous", ContinuousBatchingEngine),
            ):
                with engine_class(loaded) as engine:
                    runs[name].append(measure_engine(engine, options.tokens))
        results[workload] = {name: round(statistics.median(values), 1) for name, values in runs.items()}
    _print_table(results)
    record = {
        "model": loaded.name,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "tokens_per_second": results,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(record))


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        default="embedded",
        help="'embedded', 'tiny' (a random Llama), a folder, a .gguf file or a hub name",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a sample, on average")
    return parser.parse_args(arguments)


def _load(model: str) -> LoadedModel:
    if model != "tiny":
        loaded = load_model(model, dtype="float32", device="cpu")
    else:
        config = LlamaConfig(
            vocab_size=512, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        loaded = LoadedModel(model=LlamaForCausalLM(config).eval(), tokenizer=_Numbers(), name="tiny")
    loaded.model.generation_config.eos_token_id = loaded.model.config.eos_token_id = None
    return LoadedModel(model=loaded.model, tokenizer=_NoEnd(loaded.tokenizer), name=loaded.name)


class _Numbers:
    """Stands in for a tokenizer: a token is a letter."""

    chat_template = None
    pad_token_id = 0
    eos_token_id = None
    all_special_ids = ()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) % 512 for letter in text]

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(chr(97 + token_id % 26) for token_id in ids)


class _NoEnd:
    """A tokenizer without an end of turn, so that every engine generates the same number of tokens."""

    eos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def _make_prompt(loaded_size: int, seed: int, length: int = 48) -> tuple[int, ...]:
    numbers = random.Random(seed)
    return tuple(numbers.randrange(3, loaded_size) for _ in range(length))


def _make_request(engine: LocalEngine, name: str, prompt: int, num_tokens: int) -> Generate:
    ids = _make_prompt(engine.loaded.config.vocab_size, prompt)
    return Generate(
        key=RequestKey(program_id=f"p{prompt}", request_id=name),
        prompt=Prompt((TokenIds(ids=ids),)),
        sampling=SamplingParams(max_new_tokens=num_tokens, temperature=1.0, seed=zlib.crc32(name.encode())),
    )


def _plain(loaded: LoadedModel, prompts: list[int], num_tokens: int) -> None:
    """`model.generate` for a batch, sampled, all rows as long as the longest."""
    ids = torch.tensor([_make_prompt(loaded.config.vocab_size, prompt) for prompt in prompts])
    loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        max_new_tokens=num_tokens,
        pad_token_id=0,
    )


def _time(tokens: int, run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return tokens / (time.process_time() - start)


def _plain_even(loaded: LoadedModel, tokens: int) -> float:
    return _time(16 * tokens, lambda: _plain(loaded, list(range(16)), tokens))


def _engine_even(engine: LocalEngine, tokens: int) -> float:
    requests = [_make_request(engine, str(index), index, tokens) for index in range(16)]
    return _time(16 * tokens, lambda: _complete(engine, requests))


def _plain_alone(loaded: LoadedModel, tokens: int) -> float:
    return _time(tokens, lambda: _plain(loaded, [0], tokens))


def _engine_alone(engine: LocalEngine, tokens: int) -> float:
    return _time(tokens, lambda: _complete(engine, [_make_request(engine, "0", 0, tokens)]))


def _lengths(program: int, wave: int, tokens: int) -> list[int]:
    numbers = random.Random(1000 * program + wave)
    return [max(1, int(tokens * numbers.uniform(0.25, 1.75))) for _ in range(5 if wave == 0 else 15)]


NUM_PROGRAMS = 6


def _plain_waves(loaded: LoadedModel, tokens: int) -> float:
    """One program after the other, each wave a static batch: what a loop over `generate` does."""
    waves = [(program, _lengths(program, wave, tokens)) for program in range(NUM_PROGRAMS) for wave in (0, 1)]
    total = sum(sum(lengths) for _, lengths in waves)

    def run() -> None:
        for program, lengths in waves:
            _plain(loaded, [program] * len(lengths), max(lengths))

    return _time(total, run)


def _engine_waves(engine: LocalEngine, tokens: int) -> float:
    """All programs at once; each asks for its second wave when its first is in."""
    events: queue.Queue[Event] = queue.Queue()
    total = sum(sum(_lengths(program, wave, tokens)) for program in range(NUM_PROGRAMS) for wave in (0, 1))

    def submit(program: int, wave: int) -> int:
        lengths = _lengths(program, wave, tokens)
        names = [f"{program}-{wave}-{index}" for index in range(len(lengths))]
        pairs = zip(names, lengths, strict=True)
        engine.submit([_make_request(engine, name, program, length) for name, length in pairs], events.put)
        return len(lengths)

    def run() -> None:
        left = {program: submit(program, 0) for program in range(NUM_PROGRAMS)}
        waves = dict.fromkeys(left, 0)
        while left:
            program = int(_take(events).key.program_id[1:])
            left[program] -= 1
            if not left[program]:
                del left[program]
                if not waves[program]:
                    waves[program], left[program] = 1, submit(program, 1)

    return _time(total, run)


NUM_IN_CROWD, STATIC_BATCH = 200, 50


def _crowd_lengths(tokens: int) -> list[int]:
    numbers = random.Random(7)
    usual = [max(1, int(tokens * numbers.uniform(0.25, 1.75))) for _ in range(NUM_IN_CROWD)]
    return [5 * tokens if index % 20 == 7 else length for index, length in enumerate(usual)]


def _plain_crowd(loaded: LoadedModel, tokens: int) -> float:
    """Static batches, each as long as its longest."""
    lengths = _crowd_lengths(tokens)

    def run() -> None:
        for start in range(0, NUM_IN_CROWD, STATIC_BATCH):
            batch = range(start, start + STATIC_BATCH)
            _plain(loaded, list(batch), max(lengths[index] for index in batch))

    return _time(sum(lengths), run)


def _engine_crowd(engine: LocalEngine, tokens: int) -> float:
    lengths = _crowd_lengths(tokens)
    requests = [_make_request(engine, str(index), index, length) for index, length in enumerate(lengths)]
    return _time(sum(lengths), lambda: _complete(engine, requests))


def _complete(engine: LocalEngine, requests: list[Generate]) -> None:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(requests, events.put)
    for _ in requests:
        _take(events)


def _take(events: queue.Queue[Event]) -> Completion:
    event = events.get(timeout=TIMEOUT_S)
    if not isinstance(event, Completion) or event.finish_reason is not FinishReason.LENGTH:
        raise RuntimeError(f"Expected a completion but got {event}.")
    return event


def _print_table(results: dict[str, dict[str, float]]) -> None:
    print(f"{'tokens/s':<18}{'model.generate':>16}{'generate':>18}{'continuous':>18}")
    for workload, row in results.items():
        base = row["model.generate"]
        cells = "".join(
            f"{row[name]:>10.0f} ({row[name] / base:4.2f}x)" for name in ("generate", "continuous")
        )
        print(f"{workload:<18}{base:>16.0f}{cells}")


WORKLOADS: dict[str, tuple[Callable[[LoadedModel, int], float], Callable[[LocalEngine, int], float]]] = {
    "16 x even": (_plain_even, _engine_even),
    "6 programs, 5+15": (_plain_waves, _engine_waves),
    "200, some long": (_plain_crowd, _engine_crowd),
    "one alone": (_plain_alone, _engine_alone),
}

if __name__ == "__main__":
    main()
