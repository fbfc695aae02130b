"""Self-consistency: sample several chains of thought, vote on their answers (knob: samples).

Certaindex: normalised entropy and agreement of the answers' groups and, where they are known, the probability of
the winner's answer tokens and its mean reward (paper §2, §3). Answers are seen one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from hf_dynasor.answers import AnswerFormat, AnswerGroups, check_format, find_answer
from hf_dynasor.answers.groupers import Grouper, KeyGrouper
from hf_dynasor.certaindex import Certaindex, agreement, mean_signal, normalised_entropy
from hf_dynasor.core import (
    Command,
    Completion,
    FinishReason,
    Generate,
    Prompt,
    SamplingParams,
    Score,
    TokenIds,
)
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Decision, Knob, StopReason
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import Flow, ReasoningProgram, derive_seed
from hf_dynasor.programs.samples import Sample, read_probability
from hf_dynasor.programs.voting import Tally, Vote, check_vote, count_votes, is_decided

DEFAULT_SAMPLING = SamplingParams(max_new_tokens=512, temperature=0.7)

Rater: TypeAlias = Callable[[Completion], float | None]
"""A reward in [0, 1] of a finished sample, from nothing but its completion; `None` where it cannot be rated."""


class SelfConsistency(ReasoningProgram):
    """Vote over independent samples.

    Args:
        prompt: What every sample continues.
        budget: Most samples.
        sampling: How each is decoded; its `seed` seeds the program, and each sample gets its own from it.
        answer_format: How answers are found and told apart.
        vote: `"majority"` counts samples; `"reward"` weighs each by its reward, `"certainty"` by the probability of
            its answer's tokens (needs log-probabilities).
        rate: A free reward in [0, 1] of a finished sample, for the reward vote; without it the engine is asked
            with `Score` requests.
        grouper: What tells answers apart instead of their format: likeness of meaning, or what code does.
        stop_decided: Give up samples, in flight or not yet granted, once none of them can change the vote. The
            winner is that of all samples; its share and the certaindex are those of the samples seen.
        label: What people call it.

    Examples:
        >>> from hf_dynasor.drivers import run
        >>> from hf_dynasor.scheduler import StaticThreshold
        >>> from hf_dynasor.testing import ScriptedEngine
        >>> engine = ScriptedEngine(["So \\\\boxed{4}."] * 20)
        >>> answer = run(SelfConsistency(Prompt.chat("What is 2+2?")), engine, StaticThreshold())
        >>> answer.text, answer.units_spent, answer.stop_reason.value
        ('4', 5, 'certain')
    """

    name = "self_consistency"
    signals = frozenset({"entropy", "agreement", "answer_probability"})

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int = 20,
        sampling: SamplingParams = DEFAULT_SAMPLING,
        answer_format: AnswerFormat = "auto",
        vote: Vote = "majority",
        rate: Rater | None = None,
        grouper: Grouper | None = None,
        stop_decided: bool = False,
        label: str = "question",
    ) -> None:
        super().__init__(label=label, knob=Knob(unit="samples", maximum=budget))
        _check_options(budget, sampling, vote, rate, grouper, stop_decided)
        check_format(answer_format)
        self.signals = SelfConsistency.signals | ({"reward"} if vote == "reward" else frozenset())
        self.prompt = prompt
        self.sampling = sampling
        self.answer_format = answer_format
        self.vote, self.stop_decided = vote, stop_decided
        self.samples: list[Sample] = []
        self._rate = rate
        self._grouper = grouper or KeyGrouper(format=answer_format)
        self._num_requested = 0
        self._spent = 0
        self._waiting: set[int] = set()
        self._errors: list[str] = []
        self._groups: AnswerGroups | None = None
        self._tallies: list[Tally] = []

    def execute(self, grant: int) -> Flow:
        """Send `grant` samples together and take each as it ends; what cannot change the vote is given up if asked."""
        indices = range(self._num_requested, self._num_requested + grant)
        self._num_requested += grant
        self._waiting.update(indices)
        before = len(self.samples) + len(self._errors)
        commands: tuple[Command, ...] = tuple(self._make_request(index) for index in indices)
        while self._waiting and not (self.stop_decided and self._is_decided()):
            completion = yield commands
            commands = self._observe(completion)
        self._spent = len(self.samples) + len(self._errors) - before

    def count_spent(self, grant: int) -> int:
        """Samples of the grant that were finished; what was given up is left out."""
        return self._spent

    def find_ending(self) -> Decision | None:
        """The vote, where samples that are still out cannot change it."""
        num_out = self.knob.maximum - len(self.samples) - len(self._errors)
        if not (self.stop_decided and self.samples and num_out and self._is_decided()):
            return None
        words = f"no vote of the {num_out} samples left of {self.knob.maximum} can change the answer"
        return Decision(units=0, stop_reason=StopReason.CERTAIN, explanation=words)

    def update_certaindex(self) -> None:
        """Group the answers; a path that states none, or failed, stands alone: silence is never agreement."""
        groups = self._count()
        sizes = (*groups.sizes, *(1 for _ in self._errors))
        winner = [self.samples[place] for place in self._tallies[0].group.indices] if self._tallies else []
        probabilities = [sample.probability for sample in winner]
        rewards = [sample.reward for sample in winner]
        self.certaindex = Certaindex(
            entropy=normalised_entropy(sizes),
            agreement=agreement(sizes) if groups.groups else None,
            answer_probability=mean_signal([value for value in probabilities if value is not None]),
            reward=mean_signal([value for value in rewards if value is not None]),
            num_paths=len(self.samples),
        )

    def select_answer(self) -> str | None:
        """The winner of the vote; of votes that end level, the group with more samples, then the one seen first."""
        if not self.samples:
            errors = "; ".join(self._errors[:3]) or "no sample was granted"
            raise ProgramError(f"No sample of {self.label!r} was finished: {errors}.")
        return self._tallies[0].group.representative if self._tallies else None

    def list_votes(self) -> tuple[tuple[str, float], ...]:
        """Answers with what the samples that state them weigh: one each in a majority vote."""
        return tuple((tally.group.representative, tally.weight) for tally in self._tallies)

    def list_groups(self) -> tuple[int, ...]:
        """The group of each finished sample; one that failed is left out."""
        return self._groups.list_memberships() if self._groups else ()

    def list_paths(self) -> tuple[PathRecord, ...]:
        """The samples, by index."""
        return tuple(
            PathRecord(
                request_id=_name_request(sample.index),
                unit=sample.index,
                text=sample.text,
                answer=sample.answer,
                probability=sample.probability,
                reward=sample.reward,
                num_tokens=sample.num_tokens,
                finish_reason=sample.finish_reason,
            )
            for sample in sorted(self.samples, key=lambda sample: sample.index)
        )

    def _make_request(self, index: int) -> Generate:
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "sample", index))
        return Generate(key=self.key(_name_request(index)), prompt=self.prompt, sampling=sampling)

    def _observe(self, completion: Completion) -> tuple[Command, ...]:
        """Take in a sample or its reward; returns the request for the reward that is missing."""
        kind, _, number = completion.key.request_id.partition("-")
        index = int(number)
        if kind == "reward":
            self._waiting.discard(index)
            self._set_reward(index, completion.score)
            return ()
        if completion.finish_reason is FinishReason.FAILED:
            self._waiting.discard(index)
            self._errors.append(completion.error or "unknown error")
            return ()
        sample = self._read_sample(index, completion)
        self.samples.append(sample)
        if self.vote == "reward" and sample.answer is not None and self._rate is None:
            step = TokenIds(ids=completion.token_ids) if completion.token_ids else completion.text
            return (Score(key=self.key(f"reward-{index}"), prompt=self.prompt + step),)
        self._waiting.discard(index)
        if self.vote == "reward" and sample.answer is not None and self._rate is not None:
            self._set_reward(index, self._rate(completion))
        return ()

    def _read_sample(self, index: int, completion: Completion) -> Sample:
        is_truncated = completion.finish_reason in (FinishReason.LENGTH, FinishReason.CANCELLED)
        found = find_answer(completion.text, format=self.answer_format, is_truncated=is_truncated)
        return Sample(
            index=index,
            text=completion.text,
            answer=found.text if found else None,
            probability=read_probability(completion, found),
            num_tokens=completion.usage.net_tokens,
            finish_reason=completion.finish_reason,
        )

    def _set_reward(self, index: int, reward: float | None) -> None:
        if reward is not None and not 0 <= reward <= 1:
            raise ProgramError(f"Got {reward = } for sample {index} but expected a value in [0, 1].")
        place = next(place for place, sample in enumerate(self.samples) if sample.index == index)
        self.samples[place] = replace(self.samples[place], reward=reward)

    def _count(self) -> AnswerGroups:
        """Group and count what has been seen, by index: the vote must not depend on the order of arrival."""
        self.samples.sort(key=lambda sample: sample.index)
        self._groups = self._grouper.group([sample.answer for sample in self.samples])
        self._tallies = count_votes(
            self._groups.groups,
            weights=self._list_weights(),
            samples=[sample.index for sample in self.samples],
        )
        return self._groups

    def _list_weights(self) -> dict[int, float] | None:
        """What each sample weighs, by its place among the finished ones; one that nobody could rate weighs nothing."""
        if self.vote == "majority":
            return None
        values = [sample.reward if self.vote == "reward" else sample.probability for sample in self.samples]
        return {place: value or 0.0 for place, value in enumerate(values)}

    def _is_decided(self) -> bool:
        """Whether no sample that is out, in flight or not asked for yet, can change the vote."""
        self._count()
        later = range(self._num_requested, self.knob.maximum)
        return is_decided(self._tallies, [*self._waiting, *later], is_weighted=self.vote != "majority")


def _check_options(
    budget: int,
    sampling: SamplingParams,
    vote: Vote,
    rate: Rater | None,
    grouper: Grouper | None,
    stop_decided: bool,
) -> None:
    check_vote(vote)
    if sampling.temperature == 0 and budget > 1:
        raise ConfigurationError(
            f"Got {sampling.temperature = } with {budget = }: greedy samples are all the same. "
            "Expected a temperature above 0, such as 0.7, or a budget of 1."
        )
    if vote == "certainty" and not sampling.logprobs:
        raise ConfigurationError(
            "Got vote = 'certainty' without log-probabilities, which it weighs by. Expected logprobs=True."
        )
    if rate is not None and vote != "reward":
        raise ConfigurationError(f"Got rate with {vote = }, which reads no reward. Expected vote = 'reward'.")
    if stop_decided and grouper is not None and not grouper.is_stable:
        raise ConfigurationError(
            "Got stop_decided with a grouper whose groups change with later answers, so that no vote is ever decided. "
            "Leave out the one or the other."
        )


def _name_request(index: int) -> str:
    return f"sample-{index}"
