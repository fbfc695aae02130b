"""What holds for every tree program: votes, budgets, accounts, drivers and snapshots."""

import asyncio
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import FinishReason, Generate, SamplingParams, Score
from hf_dynasor.drivers import arun, run, run_many
from hf_dynasor.engine import Ability
from hf_dynasor.errors import ConfigurationError, ProgramError, UnsupportedError
from hf_dynasor.grants import Decision, StopReason
from hf_dynasor.programs import MCTS, Beam, BestOfN, LikelihoodReward, ModelReward, Rebase
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.programs.kit import PROMPT, reason

TREES = [Rebase, MCTS, BestOfN, Beam]
every_tree = pytest.mark.parametrize("program", TREES)


def make(program, *, budget=6, seed=1, **options):
    sampling = SamplingParams(seed=seed, max_new_tokens=options.pop("max_new_tokens", 64))
    return program(PROMPT, budget=budget, sampling=sampling, **options)


def solve(program, *, policy=None, script=reason, rng=None, **options):
    engine = ScriptedEngine(script, rng=rng)
    return run(make(program, **options), engine, policy or Even()), engine


@every_tree
@settings(max_examples=15, deadline=None)
@given(
    budget=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    policy=st.sampled_from([Even(), StaticThreshold(detect_at=3)]),
)
def test_any_driver_and_any_order_of_arrival_give_the_same_answer(program, budget, seed, policy):
    alone, _ = solve(program, budget=budget, seed=seed, policy=policy)
    shuffled, _ = solve(program, budget=budget, seed=seed, policy=policy, rng=random.Random(seed))
    awaited = asyncio.run(arun(make(program, budget=budget, seed=seed), ScriptedEngine(reason), policy))
    pairs = [(make(program, budget=budget, seed=seed), policy), (make(program, seed=seed + 1), policy)]
    many = {outcome.index: outcome.answer for outcome in run_many(pairs, ScriptedEngine(reason))}
    assert alone == shuffled == awaited == many[0]


@every_tree
@settings(max_examples=10, deadline=None)
@given(budget=st.integers(1, 9), is_free=st.booleans(), seed=st.integers(0, 99))
def test_every_request_ends_once_and_the_account_is_the_sum_of_the_pieces(program, budget, is_free, seed):
    reward = "likelihood" if is_free else "model"
    answer, engine = solve(program, budget=budget, seed=seed, reward=reward)
    names = Counter(request.key.request_id for request in engine.submitted)
    assert set(names.values()) == {1}
    assert sum(path.num_tokens for path in answer.paths) == answer.usage.net_tokens
    assert bool(answer.usage.reward) != is_free
    assert answer.units_spent == budget


@every_tree
@settings(max_examples=15, deadline=None)
@given(max_new_tokens=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_paths_budget_counts_its_whole_length(program, max_new_tokens, seed):
    """A peer never adds the parents' tokens, so a deep path runs on without an end."""

    def write_on(request):
        num_tokens = min(request.sampling.max_new_tokens, 4)
        is_cut = num_tokens == request.sampling.max_new_tokens
        return Reply(
            text="x",
            num_tokens=num_tokens,
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
        )

    answer, engine = solve(program, max_new_tokens=max_new_tokens, seed=seed, script=write_on)
    pieces = {path.request_id: path for path in answer.paths}
    for path in answer.paths:
        total, piece = 0, path
        while piece is not None:
            total, piece = total + piece.num_tokens, pieces.get(piece.parent)
        assert total <= max_new_tokens
        assert path.is_terminal == (total == max_new_tokens)
    assert all(request.sampling.max_new_tokens >= 1 for request in engine.submitted)


@every_tree
def test_the_tree_is_a_tree_whose_leaves_state_the_answers(program):
    answer, _ = solve(program)
    names = [path.request_id for path in answer.paths]
    assert len(names) == len(set(names))
    assert all(path.parent is None or path.parent in names for path in answer.paths)
    parents = {path.parent for path in answer.paths}
    leaves = [path for path in answer.paths if path.is_terminal]
    assert leaves
    assert not {leaf.request_id for leaf in leaves} & parents
    assert {leaf.answer for leaf in leaves} == {text for text, _ in answer.votes}
    assert len(leaves) == answer.certaindex.num_paths == len(answer.trace[-1].groups)
    assert [path.unit for path in answer.paths] == sorted(path.unit for path in answer.paths)


@every_tree
@settings(max_examples=10, deadline=None)
@given(permutation=st.permutations(range(6)), seed=st.integers(0, 99))
def test_permuting_siblings_changes_no_vote(program, permutation, seed):
    """The same six completions, given to the six first requests in another order."""
    drawn = [random.Random(f"{seed} {index}") for index in range(6)]
    replies = [
        Reply(text=f"\\boxed{{{rng.randint(1, 3)}}}", probability=rng.uniform(0.1, 1), num_tokens=3)
        for rng in drawn
    ]

    def votes(order):
        def script(request):
            return replies[order[int(request.key.request_id.removeprefix("step-"))]]

        options = {"num_parallel": 6, "num_children": 1} if program is MCTS else {}
        return solve(program, script=script, **options)[0]

    first, second = votes(range(6)), votes(permutation)
    assert first.votes == second.votes
    assert first.text == second.text
    assert first.certaindex == second.certaindex


@every_tree
def test_votes_count_answers_and_not_texts(program):
    """A peer counts (text, answer) pairs: all differ, so the first answer always wins."""
    replies = {0: ("First, \\boxed{5}", 0.5), 1: ("I say \\boxed{4}", 0.6), 2: ("Clearly \\boxed{4.0}", 0.6)}

    def script(request):
        text, probability = replies[int(request.key.request_id.removeprefix("step-"))]
        return Reply(text=text, probability=probability)

    options = {"num_parallel": 3, "num_children": 1} if program is MCTS else {}
    answer, _ = solve(program, budget=3, script=script, **options)
    assert (answer.text, len(answer.votes)) == ("4", 2)


@every_tree
def test_silence_is_never_agreement(program):
    answer, _ = solve(program, script=lambda request: Reply(text="I do not know."), policy=StaticThreshold())
    assert answer.text is None
    assert answer.certaindex.entropy == 0.0


@every_tree
def test_failed_requests_are_counted_and_leave_the_others_alone(program):
    def script(request):
        if request.key.request_id == "step-0":
            return Reply(finish_reason=FinishReason.FAILED, error="out of memory")
        return reason(request, answers=("4",))

    answer, _ = solve(program, script=script)
    assert (answer.text, answer.num_failed) == ("4", 1)


@every_tree
def test_a_program_without_a_single_step_raises_with_the_cause(program):
    failed = Reply(finish_reason=FinishReason.FAILED, error="out of memory")
    with pytest.raises(ProgramError, match="out of memory"):
        solve(program, script=lambda request: failed)


@every_tree
def test_failed_ratings_leave_a_path_without_weight(program):
    def script(request):
        if isinstance(request, Score):
            return Reply(finish_reason=FinishReason.FAILED, error="the reward model is away")
        return reason(request)

    answer, _ = solve(program, script=script, reward="model")
    assert answer.certaindex.reward is None
    assert answer.num_failed > 0
    assert all(weight == 0 for _, weight in answer.votes)


@every_tree
def test_the_step_that_is_rated_is_the_last_segment(program):
    _, engine = solve(program, reward=ModelReward(steps="last"))
    scored = [request for request in engine.submitted if isinstance(request, Score)]
    assert scored
    for request in scored:
        *context, step = request.prompt.segments
        assert context[: len(PROMPT.segments)] == list(PROMPT.segments)
        assert isinstance(step, str)
        assert step


@every_tree
def test_a_free_reward_asks_for_logprobs_and_sends_no_ratings(program):
    _, engine = solve(program)
    assert all(isinstance(request, Generate) and request.sampling.logprobs for request in engine.submitted)
    _, engine = solve(program, reward="model")
    assert not any(request.sampling.logprobs for request in engine.submitted if isinstance(request, Generate))


@every_tree
def test_an_engine_without_scores_is_an_error_that_says_so(program):
    class Scoreless(ScriptedEngine):
        abilities = frozenset(Ability) - {Ability.SCORE}

    with pytest.raises(UnsupportedError, match="reward scores"):
        run(make(program, reward="model"), Scoreless(reason), Even())


@every_tree
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": SamplingParams(temperature=0)}, "all the same"),
        ({"sampling": SamplingParams(stop=("x",))}, "stop"),
        ({"delimiter": ""}, "empty step delimiter"),
        ({"reward": "oracle"}, r"Unknown reward 'oracle'. Known: likelihood, model"),
        ({"answer_format": "haiku"}, "haiku"),
        ({"budget": 0}, "budget of 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(program, options, message):
    with pytest.raises(ConfigurationError, match=message):
        program(PROMPT, **options)


@pytest.mark.parametrize("program", [Rebase, Beam, BestOfN])
@settings(max_examples=10, deadline=None)
@given(budget=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_unit_ends_as_one_finished_path(program, budget, seed):
    answer, _ = solve(program, budget=budget, seed=seed, policy=StaticThreshold(detect_at=5))
    assert [path.unit for path in answer.paths if path.is_terminal] == list(range(answer.units_spent))


@every_tree
@settings(max_examples=8, deadline=None)
@given(where=st.floats(0, 0.99), reward=st.sampled_from(["likelihood", "model"]))
def test_a_resumed_tree_ends_as_the_whole_one_does(program, where, reward):
    policy = StaticThreshold(detect_at=3)
    whole, engine = solve(program, policy=policy, reward=reward)
    first = make(program, reward=reward)
    stop_after = int(where * len(engine.submitted))
    run_for(first, policy, stop_after)
    written = json.loads(json.dumps(first.snapshot()))
    resumed = make(program, reward=reward).resume(written)
    second = ScriptedEngine(reason)
    assert run(resumed, second, policy) == whole
    assert len(second.submitted) == len(engine.submitted) - stop_after


def run_for(program, policy, num_completions):
    """Drive a program by a scripted engine and stop after so many completions."""
    flow = program.flow(policy)
    waiting = list(next(flow))
    for _ in range(num_completions):
        arrived = []
        ScriptedEngine(reason).submit([waiting.pop(0)], arrived.append)
        waiting += flow.send(arrived[0])


class ThreeThenTheRest:
    """Grants in two waves whatever it reads."""

    name = "three_then_the_rest"

    def allocate(self, knob, trace):
        if not trace:
            return Decision(units=3)
        left = knob.maximum - trace[-1].total
        return Decision(units=left, stop_reason=None if left else StopReason.BUDGET)


@every_tree
def test_grants_add_up(program):
    answer, _ = solve(program, budget=7, policy=ThreeThenTheRest())
    assert [record.units for record in answer.trace] == [3, 4]
    first, second = answer.trace
    assert first.usage.net_tokens < second.usage.net_tokens == answer.usage.net_tokens
    assert first.sequential_tokens < second.sequential_tokens


def test_beams_keep_their_subtrees_apart():
    def script(request):
        rng = random.Random(request.key.request_id)
        return Reply(text="a", num_tokens=1, probability=rng.random(), finish_reason=FinishReason.STOP)

    answer, _ = solve(Beam, budget=8, branching=4, script=script, max_new_tokens=5)
    pieces = {path.request_id: path for path in answer.paths}
    for path in answer.paths:
        if path.parent is not None:
            parent = pieces[path.parent]
            assert parent.unit // 4 == path.unit // 4
            rivals = [p for p in answer.paths if p.parent == parent.parent and p.unit // 4 == path.unit // 4]
            assert parent.reward == max(rival.reward for rival in rivals)


def test_no_choice_hangs_on_a_rewards_last_bits():
    """Equal steps differ by rounding when others stand beside them in a batch; a tree once grew otherwise for it."""

    def grow(noise):
        def script(request):
            probability = 0.7 + noise * random.Random(request.key.request_id).choice([-1, 1])
            if request.key.request_id.count("-") > 1:
                return Reply(text="\\boxed{4}", num_tokens=1, probability=probability)
            return Reply(text="a", num_tokens=1, probability=probability, finish_reason=FinishReason.STOP)

        answer, _ = solve(Rebase, budget=5, script=script)
        return [(path.request_id, path.parent) for path in answer.paths]

    assert grow(0.0) == grow(1e-9)


def test_the_best_of_n_wins_against_the_majority():
    replies = iter([("5", 0.3), ("5", 0.4), ("4", 0.9)])

    def script(request):
        text, probability = next(replies)
        return Reply(text=f"\\boxed{{{text}}}", probability=probability)

    answer, _ = solve(BestOfN, budget=3, script=script)
    assert answer.text == "4"
    assert answer.certaindex.reward == pytest.approx(0.9)


def test_a_reward_is_a_setting_that_snapshots_compare():
    snapshot = make(Rebase).snapshot()
    with pytest.raises(ConfigurationError, match="reward = "):
        make(Rebase, reward=LikelihoodReward(steps="product")).resume(snapshot)
