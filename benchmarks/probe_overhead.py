"""What probing costs: wall time of `generate` with probes that never exit, against without, in turn.

"confident" is "verify" for a rule such as the default one, which has no use for an answer with an unlikely token: the
probe gives it up there. Beside it the cost of one probe at 512 tokens of context: in place (verify, decode), and the way of a proxy that
sends the context again as text, so that it is tokenised and prefilled for every probe. Prints a table, then one
JSON line. Quote the ratios: the machine's own speed varies.

    OMP_NUM_THREADS=1 python benchmarks/probe_overhead.py [--model embedded|FILE.gguf] [--rounds 3] [--tokens 192]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.serving import LoadedModel, load_model
from hf_dynasor.stopping import (
    DEFAULT_RULE,
    AnswerConsistency,
    Need,
    Prober,
    ProbingCriteria,
    RuleState,
    find_think_markers,
)
from hf_dynasor.stopping.caches import LiveBatch
from hf_dynasor.stopping.view import ForwardPass

NEVER = 10**6
CONTEXT = 512
PROXY_TOKENS = 20

MODES = ("verify", "confident", "decode")


@dataclass(frozen=True, slots=True)
class Never:
    """A rule that never stops and asks at a fixed interval.

    Args:
        interval: Thinking tokens between two readings.
        floor: The probability at which it has no use for the rest of an answer.
    """

    interval: int
    floor: float = 0.0
    needs: frozenset[Need] = frozenset({Need.ANSWER})
    reads_text: bool = False

    def start(self) -> RuleState:
        """The state of a fresh row."""
        return AnswerConsistency(window=NEVER, interval=self.interval).start()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Measure both tables and print them."""
    options = _parse()
    torch.set_num_threads(1)
    loaded = load_model(options.model, dtype="float32", device="cpu")
    loaded.tokenizer.padding_side = "left"
    rows = [row for size in options.batches for row in _measure_overhead(loaded, size, options)]
    probes = [row for size in options.batches for row in _measure_probe(loaded, size, options)]
    for row in rows:
        print(
            f"batch {row['batch']}, interval {row['interval']:>3}, {row['mode']:9}: {row['ratio']:.3f} of plain "
            f"({row['ratio_low']:.3f} to {row['ratio_high']:.3f}), plain {row['plain_s']:.2f} s"
        )
    for row in probes:
        print(
            f"batch {row['batch']}, one probe at {CONTEXT} tokens: verify {row['verify_ms']:.1f} ms, decode "
            f"{row['decode_ms']:.1f} ms; re-sent {row['resent_ms']:.1f} ms = {row['resent_per_verify']:.1f} x verify, "
            f"{row['resent_per_decode']:.1f} x decode"
        )
    print(
        json.dumps(
            {
                "benchmark": "probe_overhead",
                "model": loaded.name,
                "tokens": options.tokens,
                "clock": options.clock,
                "overhead": rows,
                "probe": probes,
            }
        )
    )


def _measure_overhead(loaded: LoadedModel, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rounds of plain and every kind of probing in turn; each ratio is to the plain run of its own round."""
    batch = _encode(loaded, size)
    kinds = [(interval, mode) for interval in options.intervals for mode in MODES]
    plain: list[float] = []
    ratios: dict[tuple[int, str], list[float]] = {kind: [] for kind in kinds}
    _generate(loaded, batch, None, options)
    for _ in range(options.rounds):
        plain.append(_generate(loaded, batch, None, options))
        for kind in kinds:
            ratios[kind].append(_generate(loaded, batch, kind, options) / plain[-1])
    return [
        {
            "batch": size,
            "interval": interval,
            "mode": mode,
            "ratio": round(statistics.median(ratios[interval, mode]), 4),
            "ratio_low": round(min(ratios[interval, mode]), 4),
            "ratio_high": round(max(ratios[interval, mode]), 4),
            "plain_s": round(statistics.median(plain), 3),
        }
        for interval, mode in kinds
    ]


def _generate(
    loaded: LoadedModel,
    batch: dict[str, torch.Tensor],
    kind: tuple[int, Any] | None,
    options: argparse.Namespace,
) -> float:
    """Seconds to generate exactly `options.tokens` thinking tokens in every row."""
    model, tokenizer = loaded.model, loaded.tokenizer
    markers = find_think_markers(tokenizer, model.generation_config)
    inputs: dict[str, Any] = dict(batch)
    if kind is not None:
        interval, mode = kind
        prober = Prober(
            model,
            tokenizer,
            mode="decode" if mode == "decode" else "verify",
            suffix="short",
            markers=markers,
        )
        rule = Never(interval, DEFAULT_RULE.floor if mode == "confident" else 0.0)
        probing = ProbingCriteria(model, tokenizer, rule, prober=prober)
        inputs = probing.prepare(**batch) | {"stopping_criteria": [probing]}
    endings = [*loaded.eos_token_ids, *(markers.close_ids if markers else ())]
    start = CLOCKS[options.clock]()
    model.generate(**inputs, do_sample=False, max_new_tokens=options.tokens, suppress_tokens=endings)
    return CLOCKS[options.clock]() - start


def _measure_probe(loaded: LoadedModel, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    model, tokenizer = loaded.model, loaded.tokenizer
    live, texts = _think(loaded, size)
    markers = find_think_markers(tokenizer, model.generation_config)
    verify = Prober(model, tokenizer, suffix="short", markers=markers)
    decode = Prober(model, tokenizer, suffix="short", markers=markers, mode="decode")
    told = decode.read(live, range(size))

    def send_again() -> None:
        again = tokenizer(
            [text + verify.suffix for text in texts],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        model.generate(
            input_ids=again["input_ids"],
            attention_mask=again["attention_mask"],
            max_new_tokens=PROXY_TOKENS,
            do_sample=False,
        )

    ways: dict[str, Callable[[], Any]] = {
        "verify": lambda: verify.read(live, range(size), previous=told),
        "decode": lambda: decode.read(live, range(size)),
        "resent": send_again,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = CLOCKS[options.clock]()
            way()
            seconds[name].append(CLOCKS[options.clock]() - start)
    best = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "batch": size,
            **{f"{name}_ms": round(value, 2) for name, value in best.items()},
            "resent_per_verify": round(best["resent"] / best["verify"], 2),
            "resent_per_decode": round(best["resent"] / best["decode"], 2),
        }
    ]


def _think(loaded: LoadedModel, size: int) -> tuple[LiveBatch, Sequence[str]]:
    """A live batch with `CONTEXT` tokens in each row, and the same as texts."""
    batch = _encode(loaded, size)
    missing = CONTEXT - batch["input_ids"].shape[1]
    markers = find_think_markers(loaded.tokenizer, loaded.model.generation_config)
    endings = [*loaded.eos_token_ids, *(markers.close_ids if markers else ())]
    ids = loaded.model.generate(**batch, do_sample=False, max_new_tokens=missing, suppress_tokens=endings)
    mask = pad(batch["attention_mask"], (0, missing), value=1)
    cache = DynamicCache(config=loaded.model.config)
    with torch.no_grad():
        ForwardPass(loaded.model)(ids[:, :-1], mask[:, :-1], cache, 1)
    texts = [loaded.tokenizer.decode(row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]
    return LiveBatch(cache=cache, pending=ids[:, -1:], mask=mask), texts


def _encode(loaded: LoadedModel, size: int) -> dict[str, torch.Tensor]:
    problems = generate_problems(size, seed=11, levels=(3, 4, 5), split="test")
    encoded = loaded.tokenizer.apply_chat_template(
        [[{"role": "user", "content": problem.question}] for problem in problems],
        add_generation_prompt=True,
        enable_thinking=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS), help="cpu on a shared machine")
    parser.add_argument(
        "--model", default="embedded", help="'embedded', a folder, a .gguf file or a hub name"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=192, help="thinking tokens of each row")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--intervals", type=int, nargs="+", default=[32, 64, 128])
    return parser.parse_args()


if __name__ == "__main__":
    main()
