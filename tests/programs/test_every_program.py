"""What holds for every reasoning program: drivers, orders of arrival, accounts, budgets and snapshots."""

import asyncio
import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import Cancel, FinishReason
from hf_dynasor.drivers import arun, run, run_many
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.recipe import Recipe
from tests.programs.char_model import EOS, CharEngine

MAX_NEW_TOKENS = 60
OPTIONS = {
    "chain_of_thought": {"interval": 16, "rule": "answer_consistency"},
    "chain_consistency": {"interval": 16, "rule": "answer_consistency", "stop_decided": False},
}
every_program = pytest.mark.parametrize("name", sorted(PROGRAMS))
BUDGETS = st.integers(1, 6)
SEEDS = st.integers(0, 2**32)


class SamplingEngine(CharEngine):
    """Draws by the request's seed, and ends what it writes with an answer; delivers in an order of its own."""

    def __init__(self, order=None):
        super().__init__()
        self.order, self.seed, self.completions = order, None, []

    def submit(self, requests, sink):
        requests = list(requests)
        if self.order is not None:
            self.order.shuffle(requests)
        super().submit(requests, sink)

    def complete(self, request):
        self.seed = request.sampling.seed if request.sampling.temperature else None
        completion = super().complete(request)
        self.completions.append(completion)
        return completion

    def choose(self, context):
        text = "".join(map(chr, context))
        if text.endswith("}"):
            return EOS
        if (place := text.rfind("\\boxed{")) >= 0 and len(text) > place + len("\\boxed{"):
            return ord("}")
        number = zlib.crc32(repr((context, self.seed)).encode())
        if place >= 0:
            return ord("123"[number % 3])
        opening = next((n for n in range(6, 0, -1) if text.endswith("\\boxed{"[:n])), 0)
        if opening:
            return ord("\\boxed{"[opening])
        return ord("\\" if number % 24 == 0 else "ab12 .\n\n"[number // 1009 % 8])


def build(name, budget, seed):
    is_chain = name == "chain_of_thought"
    return Recipe(
        program=name,
        policy="even",
        budget=10 * budget if is_chain else budget,
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
        logprobs=True,
        instruction="",
        program_options=OPTIONS.get(name, {}),
    ).build("q")


@every_program
@settings(max_examples=6, deadline=None)
@given(budget=BUDGETS, seed=SEEDS)
def test_the_same_seed_gives_the_same_answer_on_every_driver_in_any_order_of_arrival(name, budget, seed):
    def make(number=seed):
        return build(name, budget, number)

    alone = run(make()[0], SamplingEngine(), make()[1])
    shuffled = run(make()[0], SamplingEngine(random.Random(seed)), make()[1])
    awaited = asyncio.run(arun(make()[0], SamplingEngine(), make()[1]))
    pairs = [make(), make(seed + 1), make()]
    many = {item.index: item.answer for item in run_many(pairs, SamplingEngine(random.Random(seed)))}
    assert alone == shuffled == awaited == many[0] == many[2]


@every_program
@settings(max_examples=8, deadline=None)
@given(budget=BUDGETS, seed=SEEDS)
def test_every_request_ends_once_every_token_is_told_and_no_budget_is_exceeded(name, budget, seed):
    engine = SamplingEngine(random.Random(seed))
    program, policy = build(name, budget, seed)
    answer = run(program, engine, policy)
    assert len({request.key for request in engine.requests}) == len(engine.requests)
    assert set(engine.ended.values()) == {1}
    usages = [completion.usage for completion in engine.completions]
    assert answer.usage.sampled == sum(usage.sampled for usage in usages)
    assert answer.usage.probe >= sum(usage.probe for usage in usages)
    assert answer.units_spent <= answer.budget == program.knob.maximum
    pieces = {path.request_id: path for path in answer.paths}
    limit = answer.budget if name == "chain_of_thought" else MAX_NEW_TOKENS
    for piece in answer.paths:
        total, node = 0, piece
        while node is not None:
            total, node = total + node.num_tokens, pieces.get(node.parent)
        assert total <= limit


@every_program
@settings(max_examples=6, deadline=None)
@given(budget=BUDGETS, seed=SEEDS, place=st.floats(0, 1))
def test_a_program_written_down_anywhere_goes_on_to_the_same_answer(name, budget, seed, place):
    engine = SamplingEngine()
    whole = run(build(name, budget, seed)[0], engine, build(name, budget, seed)[1])
    num_seen = int(place * (len(engine.completions) - 1))
    first, policy = build(name, budget, seed)
    drive(first, policy, num_seen)
    written = json.dumps(first.snapshot())
    rest = SamplingEngine()
    resumed = run(build(name, budget, seed)[0].resume(json.loads(written)), rest, policy)
    assert resumed == whole
    assert len(rest.requests) == len(engine.requests) - num_seen


def drive(program, policy, num_completions):
    """Run a program by hand for so many completions, and leave it there."""
    engine, waiting = SamplingEngine(), []
    flow = program.flow(policy)
    commands = next(flow)
    for _ in range(num_completions):
        waiting += [command for command in commands if not isinstance(command, Cancel)]
        completion = engine.complete(waiting.pop(0))
        assert completion.finish_reason is not FinishReason.FAILED
        commands = flow.send(completion)
