"""Chains of thought on real models: the chain of plain generation, and the decisions of the in-place probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_dynasor.answers import is_correct
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.drivers import run, run_many
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import wilson_interval
from hf_dynasor.grants import StopReason
from hf_dynasor.programs import ChainConsistency, ChainOfThought, ChainSettings, SelfConsistency
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.serving import GenerateEngine, LoadedModel
from hf_dynasor.stopping import AnswerConsistency, BoundaryConfidence, EarlyExit
from tests.serving.kit import ask, complete

GREEDY = SamplingParams(temperature=0)
ASDIV = Path(__file__).parents[3] / "shared" / "data" / "asdiv.jsonl"
LIMIT = 512


def list_questions(count: int, seed: int = 31) -> list[str]:
    return [
        problem.question
        for problem in generate_problems(count, seed=seed, levels=(1, 2, 3, 4, 5), split="test")
    ]


def test_a_probed_chain_that_never_stops_is_one_plain_generation(open_engine, embedded: LoadedModel) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(embedded)
    for question in list_questions(3):
        prompt = Prompt.chat(question, enable_thinking=True)
        (plain,) = complete(engine, ask(prompt, max_new_tokens=LIMIT))
        program = ChainOfThought(
            prompt, budget=LIMIT, sampling=GREEDY, settings=ChainSettings(interval=16, suffix="short")
        )
        answer = run(program, engine, Even())
        assert program.text == plain.text
        assert program._chain.prompt.segments[1].ids == plain.token_ids  # type: ignore[union-attr]
        assert answer.usage.sampled == len(plain.token_ids)
        assert len(program.readings) > 2


@pytest.mark.parametrize(
    "rule",
    [
        AnswerConsistency(window=3, interval=16),
        AnswerConsistency(window=2, interval=32, warmup=40),
        BoundaryConfidence(threshold=0.99, statistic="minimum", min_gap=16),
        BoundaryConfidence(threshold=1.0, min_gap=4),
    ],
    ids=["consistency", "warmup", "boundary", "never"],
)
def test_a_probed_chain_decides_as_the_in_place_probe_does(
    embedded: LoadedModel, rule: AnswerConsistency | BoundaryConfidence
) -> None:
    """The same chain, greedy: the same places, the same answers, the same verdicts."""
    engine, tokenizer = GenerateEngine(embedded), embedded.tokenizer
    try:
        for question in list_questions(4):
            early_exit = EarlyExit(tokenizer, rule, exit="stop", suffix="short")
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                enable_thinking=True,
                return_tensors="pt",
                return_dict=True,
            )
            embedded.model.generate(
                **inputs, custom_generate=early_exit, max_new_tokens=LIMIT, do_sample=False
            )
            (report,) = early_exit.reports
            program = ChainOfThought(
                Prompt.chat(question, enable_thinking=True),
                budget=LIMIT,
                sampling=GREEDY,
                settings=ChainSettings(rule=rule, suffix="short"),
            )
            answer = run(program, engine, Even())
            assert len(program.trace_entries) == len(report.trace)
            for mine, other in zip(program.trace_entries, report.trace, strict=True):
                assert (mine.num_tokens, mine.verdict.vote) == (other.num_tokens, other.verdict.vote)
                # In place, an answer that can no longer become certain enough is not written to its end.
                assert other.answer in (None, mine.answer)
            assert (answer.stop_reason is StopReason.CERTAIN) == report.is_early
            if report.is_early:
                assert answer.text == report.answer
    finally:
        engine.close()


@pytest.mark.parametrize("mode", ["guided", "cut"])
def test_guided_chains_count_what_was_forced_as_the_tokenizer_does(embedded: LoadedModel, mode: str) -> None:
    engine = GenerateEngine(embedded)
    resume = "\n\nWait, let me double check.\n\n"
    rule = AnswerConsistency(window=2, interval=1) if mode == "cut" else None
    settings = ChainSettings(mode=mode, rule=rule, interval=24, resume=resume)  # type: ignore[arg-type]
    prompt = Prompt.chat(list_questions(1)[0], enable_thinking=True)
    try:
        program = ChainOfThought(prompt, budget=256, sampling=GREEDY, settings=settings)
        answer = run(program, engine, Even())
    finally:
        engine.close()
    forced = [segment for segment in program._chain.prompt.segments[1:] if isinstance(segment, str)]
    counted = forced if program._chain._pending is None else forced[:-1]
    sizes = [len(embedded.tokenizer.encode(text, add_special_tokens=False)) for text in counted]
    assert answer.usage.forced == sum(sizes) > 0
    assert answer.units_spent == answer.usage.forced + answer.usage.sampled <= 256


def test_a_composition_runs_on_every_engine(open_engine, embedded: LoadedModel) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(embedded)
    program = ChainConsistency(
        Prompt.chat("What is 12+7+5?", enable_thinking=True),
        budget=5,
        sampling=SamplingParams(temperature=0.6, max_new_tokens=256, seed=1),
        settings=ChainSettings(rule=AnswerConsistency(window=2, interval=16), suffix="short"),
    )
    answer = run(program, engine, Even())
    assert (answer.text, answer.stop_reason) == ("24", StopReason.CERTAIN)
    assert answer.usage.probe > 0


@pytest.mark.slow
def test_programs_on_chains_run_to_the_end_on_a_model_of_real_size(
    smollm2: LoadedModel, record_property: pytest.FixtureRequest
) -> None:
    """SmolLM2-135M on ASDiv, accuracy as it is: the bar is that every question ends and every token is told."""
    if not ASDIV.exists():
        pytest.skip("needs ../shared/data/asdiv.jsonl")
    rows = [json.loads(line) for line in ASDIV.read_text().splitlines()[:10]]
    engine = GenerateEngine(smollm2)
    sampling = SamplingParams(temperature=0.7, max_new_tokens=96, seed=0)
    text = " Put your final answer within \\boxed{}."
    prompts = [Prompt.chat(row["question"] + text) for row in rows]
    chains = ChainSettings(rule=AnswerConsistency(window=2, interval=32), suffix="short")
    sides = {
        "chain_of_thought": (
            lambda prompt: ChainOfThought(prompt, budget=96, sampling=sampling, settings=chains),
            Even(),
        ),
        "self_consistency": (
            lambda prompt: SelfConsistency(prompt, budget=5, sampling=sampling),
            StaticThreshold(),
        ),
    }
    try:
        for name, (make, policy) in sides.items():
            outcomes = list(run_many([(make(prompt), policy) for prompt in prompts], engine))
            assert all(outcome.error is None for outcome in outcomes)
            right = sum(
                outcome.answer is not None
                and outcome.answer.text is not None
                and is_correct(outcome.answer.text, str(rows[outcome.index]["answer"]))
                for outcome in outcomes
            )
            tokens = sum(outcome.usage.net_tokens for outcome in outcomes)
            low, high = wilson_interval(right, len(rows))
            record_property(name, f"{right} of 10 ({low:.0%} to {high:.0%}), {tokens} net tokens")
            assert tokens > 0
            assert all(outcome.usage.sampled <= 5 * 96 for outcome in outcomes)
    finally:
        engine.close()
