"""Steps of a real engine, to plan with: `hf-dynasor simulate --engine-steps FILE` and `benchmarks/scale.py` fit theirs to them.

    python benchmarks/engine_steps.py [--model embedded] [--requests 64] [--output steps.jsonl]

Continuous batching runs 1 request, then 2, 4 and so on at a time, after prompts of three lengths that are all unlike.
Seconds are those of the engine's thread on a CPU, so that other work on the machine counts for little, and of the clock on an
accelerator. Every step that another one followed at once is a line; of each kind only so many are kept. About a minute.
Ends with one JSON line: the fitted model and how far it is off.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from engine_clock import EngineClock, Turn

from hf_dynasor.clock import MonotonicClock
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
from hf_dynasor.scheduler.simulate import StepRow, fit_engine
from hf_dynasor.serving import ContinuousBatchingEngine, load_model

PROMPT_TOKENS = (16, 256, 1024)
MAX_STEP_TOKENS = 2048
TIMEOUT_S = 600.0


def run_requests(
    engine: ContinuousBatchingEngine, number: int, prompt_tokens: int, new_tokens: int, draw: random.Random
) -> None:
    """So many requests at once, to their end."""
    done: queue.Queue[Completion] = queue.Queue()

    def listen(event: Event) -> None:
        if isinstance(event, Completion):
            done.put(event)

    vocabulary = engine.loaded.config.vocab_size
    settings = SamplingParams(max_new_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    engine.submit(
        [
            Generate(
                key=RequestKey(program_id=f"{number}x{prompt_tokens}", request_id=f"{index}"),
                prompt=Prompt((TokenIds(ids=tuple(draw.choices(range(vocabulary), k=prompt_tokens))),)),
                sampling=settings,
            )
            for index in range(number)
        ],
        listen,
    )
    for _ in range(number):
        completion = done.get(timeout=TIMEOUT_S)
        if completion.finish_reason is not FinishReason.LENGTH:
            raise SystemExit(f"A request ended otherwise: {completion}")


def record(model: str, most: int, new_tokens: int) -> list[StepRow]:
    """The steps of all loads, in order."""
    loaded = load_model(model)
    is_cpu = loaded.model.device.type == "cpu"
    clock = EngineClock("cpu") if is_cpu else MonotonicClock()
    draw = random.Random(0)
    sizes = [2**power for power in range(most.bit_length())]
    with ContinuousBatchingEngine(
        loaded,
        clock=clock,
        max_batch_requests=most,
        max_batch_tokens=MAX_STEP_TOKENS,
        num_step_rows=1_000_000,
        reward=None,
    ) as engine:
        if isinstance(clock, EngineClock):
            clock.attach(engine, Turn([]))
        for number in sizes:  # the first step of each size is slower than all others: kernels are prepared
            run_requests(engine, number, 2 * MAX_STEP_TOKENS // (3 * number), 4, draw)
        num_warm = len(engine.step_rows)
        for number in sizes:
            for prompt_tokens in PROMPT_TOKENS:
                run_requests(engine, number, prompt_tokens, new_tokens, draw)
        return list(engine.step_rows)[num_warm:]


def thin(rows: Sequence[StepRow], most: int) -> list[StepRow]:
    """At most so many steps, those that compute prompts and those that do not in equal parts as far as there are."""
    prompts = [row for row in rows if row.num_prefill_tokens]
    plain = [row for row in rows if not row.num_prefill_tokens]
    return [row for part in (prompts, plain) for row in part[:: max(1, -(-len(part) // (most // 2)))]]


def main() -> None:
    """Record, fit, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--requests", type=int, default=64, help="most at a time (default: 64)")
    parser.add_argument("--tokens", type=int, default=24, help="of each request (default: 24)")
    parser.add_argument("--keep", type=int, default=600, help="most steps to keep (default: 600)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = record(arguments.model, arguments.requests, arguments.tokens)
    rows = thin(every, arguments.keep)
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    fit = fit_engine(rows, name=arguments.model)
    report = {"model": fit.model.to_dict(), "mean_error": round(fit.mean_error, 4), "num_rows": fit.num_rows}
    print(json.dumps({"benchmark": "engine_steps", **report, "num_measured": len(every)}))


if __name__ == "__main__":
    main()
