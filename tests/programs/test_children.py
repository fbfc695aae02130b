"""Programs inside programs: every request ends once, accounts add up, budgets hold, and joint stops end all."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import FinishReason, Prompt, SamplingParams
from hf_dynasor.drivers import run, run_many
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Knob, StopReason
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.programs import ChainConsistency, ChainSettings, SelfConsistency
from hf_dynasor.programs.children import ChildGroup, GrantAll, run_children
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.stopping import AnswerConsistency
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.programs.char_model import CharEngine

PROMPT = Prompt.plain("q")


class Pair(ReasoningProgram):
    """Two votes inside one program; the second is given up after some completions of the first."""

    name, signals = "pair", frozenset()

    def __init__(self, *, widths=(3, 4), give_up_after=None, label="pair"):
        super().__init__(label=label, knob=Knob(unit="pairs", maximum=1))
        self.votes = [SelfConsistency(PROMPT, budget=width, label=f"vote-{width}") for width in widths]
        self.give_up_after, self.outcomes = give_up_after, {}

    def execute(self, grant):
        names = [f"vote-{index}" for index in range(len(self.votes))]
        group = ChildGroup(
            self.key, {name: (vote, Even()) for name, vote in zip(names, self.votes, strict=True)}
        )
        moves = Counter()

        def decide(name):
            moves[name] += 1
            return [names[1]] if moves[names[0]] == self.give_up_after else []

        self.outcomes = yield from run_children(group, decide)

    def update_certaindex(self):
        """It knows nothing of its own."""

    def select_answer(self):
        return next((outcome.answer.text for outcome in self.outcomes.values() if outcome.answer), None)


def test_children_share_an_engine_under_their_parents_name_and_answer_alone():
    program, engine = Pair(), ScriptedEngine(lambda request: Reply(text="It is \\boxed{4}.", num_tokens=5))
    answer = run(program, engine, Even())
    assert {request.key.program_id for request in engine.submitted} == {program.program_id}
    assert [outcome.answer.votes for outcome in program.outcomes.values()] == [(("4", 3.0),), (("4", 4.0),)]
    assert answer.usage.sampled == 35 == sum(vote.usage.sampled for vote in program.votes)


def test_a_child_that_is_given_up_is_cancelled_and_its_tokens_count():
    def script(request):
        is_first = "vote-0" in request.key.request_id
        return Reply(text="\\boxed{4}", num_tokens=5) if is_first else Reply(is_held=True, num_tokens=2)

    program, engine = Pair(give_up_after=2), ScriptedEngine(script)
    answer = run(program, engine, Even())
    assert program.outcomes["vote-1"].is_given_up
    assert len(engine.cancelled) == 4
    assert answer.usage.sampled == 3 * 5 + 4 * 2


def test_a_child_that_fails_ends_alone():
    def script(request):
        if "vote-0" in request.key.request_id:
            return Reply(finish_reason=FinishReason.FAILED, error="lost")
        return Reply(text="\\boxed{4}")

    program = Pair()
    answer = run(program, ScriptedEngine(script), Even())
    assert isinstance(program.outcomes["vote-0"].error, ProgramError)
    assert (answer.text, answer.num_failed) == ("4", 3)


def test_children_run_under_every_driver():
    engine = ScriptedEngine(lambda request: Reply(text="\\boxed{4}"))
    outcomes = list(run_many([(Pair(), Even()) for _ in range(3)], engine))
    assert [outcome.answer.text for outcome in outcomes] == ["4"] * 3


def test_names_that_keys_are_made_of_are_checked():
    with pytest.raises(ConfigurationError, match="without '/'"):
        ChildGroup(Pair().key, {"a/b": (SelfConsistency(PROMPT), Even())})
    with pytest.raises(ConfigurationError, match="at least one"):
        ChildGroup(Pair().key, {})


class CountingEngine(CharEngine):
    """Delivers in any order and counts what ends; it ends what is cancelled."""

    def __init__(self, seed, **options):
        super().__init__(**options)
        self.rng, self.waiting, self.delivered = random.Random(seed), {}, Counter()

    def submit(self, requests, sink):
        for request in requests:
            assert request.key not in self.waiting
            self.waiting[request.key] = (request, sink)
        self.move()

    def cancel(self, keys):
        from dataclasses import replace

        for key in keys:
            if key in self.waiting:
                request, sink = self.waiting.pop(key)
                self.delivered[key] += 1
                cut = request.sampling.max_new_tokens // 2
                part = self.complete(
                    replace(request, sampling=replace(request.sampling, max_new_tokens=max(1, cut)))
                )
                sink(replace(part, finish_reason=FinishReason.CANCELLED))
        self.move()

    def move(self):
        """One of those that wait ends; the driver's next command lets the next one end."""
        if self.waiting:
            key = self.rng.choice(sorted(self.waiting, key=str))
            request, sink = self.waiting.pop(key)
            self.delivered[key] += 1
            self.requests.append(request)
            sink(self.complete(request))


def drive(program, engine, policy):
    """A driver that lets the engine move while a flow waits."""
    events = []
    flow = program.flow(policy)
    sent = []
    try:
        commands = next(flow)
        while True:
            for command in commands:
                if hasattr(command, "keys"):
                    engine.cancel(command.keys)
                else:
                    sent.append(command.key)
                    engine.submit([command], events.append)
            while not events:
                engine.move()
            commands = flow.send(events.pop(0))
    except StopIteration as stop:
        return stop.value, sent


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    width=st.integers(1, 6),
    depth=st.integers(1, 150),
    mode=st.sampled_from(["plain", "guided", "cut", "probed"]),
    exit=st.sampled_from(["probe", "answer"]),
    stop_decided=st.booleans(),
    threshold=st.sampled_from([None, 0.3, 0.7]),
    policy=st.sampled_from([Even(), StaticThreshold(detect_at=2)]),
)
def test_every_request_of_a_composition_ends_once_and_no_chain_exceeds_its_budget(
    seed, width, depth, mode, exit, stop_decided, threshold, policy
):
    rules = {
        "cut": AnswerConsistency(window=2, interval=1),
        "probed": AnswerConsistency(window=2, interval=8),
    }
    program = ChainConsistency(
        PROMPT,
        budget=width,
        sampling=SamplingParams(max_new_tokens=depth, seed=seed),
        settings=ChainSettings(mode=mode, rule=rules.get(mode), interval=8, exit=exit, resume=" Wait."),
        thresholds=None if threshold is None else Thresholds(entropy=threshold),
        stop_decided=stop_decided,
    )
    engine = CountingEngine(seed, eos_every=60, answers=lambda context: str(len(context) % 2))
    answer, sent = drive(program, engine, policy)
    assert Counter(sent) == engine.delivered
    assert set(engine.delivered.values()) <= {1}
    assert not engine.waiting
    assert len(program.chains) <= width
    assert all(chain._chain.num_tokens <= depth for chain in program.chains)
    assert answer.usage.probe >= 0 if mode == "probed" else answer.usage.probe == 0
    assert answer.usage.forced <= width * depth


def test_a_joint_stop_ends_chains_that_still_think():
    """Two chains have ended and agree; the newest answers of the others agree with them."""
    engine = CharEngine(answers=lambda context: "7")
    program = ChainConsistency(
        PROMPT,
        budget=5,
        sampling=SamplingParams(max_new_tokens=400),
        settings=ChainSettings(rule=AnswerConsistency(window=4, interval=8)),
        thresholds=Thresholds(entropy=0.7),
        min_settled=2,
        stop_decided=False,
    )
    answer = run(program, engine, Even())
    assert (answer.text, answer.stop_reason) == ("7", StopReason.CERTAIN)
    assert "with 2 of 5 chains at their end" in answer.explanation
    assert sum(chain.is_settled for chain in program.chains) == 2
    assert answer.certaindex.entropy == 1.0


def test_the_account_of_a_composition_holds_what_its_chains_forced_and_probed():
    program = ChainConsistency(
        PROMPT,
        budget=3,
        sampling=SamplingParams(max_new_tokens=64),
        settings=ChainSettings(mode="guided", interval=16),
        stop_decided=False,
    )
    answer = run(program, CharEngine(), Even())
    assert answer.usage.forced == sum(chain.usage.forced for chain in program.chains) > 0
    assert answer.usage == sum((chain.usage for chain in program.chains[1:]), program.chains[0].usage)
    assert {path.unit for path in answer.paths} == {0, 1, 2}
    assert len({path.request_id for path in answer.paths}) == len(answer.paths)


def test_a_composition_is_snapshot_and_resumed_like_any_program():
    def build():
        return ChainConsistency(
            PROMPT,
            budget=3,
            sampling=SamplingParams(max_new_tokens=64, seed=1),
            settings=ChainSettings(interval=16),
        )

    whole = run(build(), CharEngine(), Even())
    program, engine = build(), CharEngine()
    flow, pending = program.flow(Even()), []
    pending += next(flow)
    for _ in range(5):
        pending += flow.send(engine.complete(pending.pop(0)))
    resumed = run(build().resume(program.snapshot()), CharEngine(), Even())
    assert (resumed.text, resumed.votes) == (whole.text, whole.votes)


def test_greedy_chains_are_refused_but_one():
    with pytest.raises(ConfigurationError, match="all the same"):
        ChainConsistency(PROMPT, sampling=SamplingParams(temperature=0))
    ChainConsistency(PROMPT, budget=1, sampling=SamplingParams(temperature=0))


def test_the_policy_of_children_grants_everything_once():
    knob = Knob(unit="tokens", maximum=9)
    assert GrantAll().allocate(knob, ()).units == 9
