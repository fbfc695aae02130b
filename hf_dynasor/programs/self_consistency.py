"""Self-consistency: sample several chains of thought, vote on their answers (knob: samples).

Certaindex: normalised entropy and agreement of the answers' groups and, where the engine gives
log-probabilities, the probability of the majority's answer tokens (paper §2, §3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_dynasor.answers import (
    AnswerFormat,
    AnswerGroups,
    FoundAnswer,
    check_format,
    find_answer,
    group_answers,
)
from hf_dynasor.certaindex import Certaindex, agreement, answer_probability, mean_signal, normalised_entropy
from hf_dynasor.core import Completion, FinishReason, Generate, Prompt, SamplingParams
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Knob
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import Flow, ReasoningProgram, derive_seed

DEFAULT_SAMPLING = SamplingParams(max_new_tokens=512, temperature=0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One finished path.

    Args:
        index: Its place among the program's samples.
        text: What was generated.
        answer: The final answer that it states; `None` where it states none.
        probability: Geometric mean probability of the answer's tokens, where known.
        num_tokens: Tokens generated.
        finish_reason: How it ended.
    """

    index: int
    text: str
    answer: str | None
    probability: float | None
    num_tokens: int
    finish_reason: FinishReason


class SelfConsistency(ReasoningProgram):
    """Vote over independent samples.

    Args:
        prompt: What every sample continues.
        budget: Most samples.
        sampling: How each is decoded; its `seed` seeds the program, and each sample gets its own from it.
        answer_format: How answers are found and told apart.
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
        label: str = "question",
    ) -> None:
        super().__init__(label=label, knob=Knob(unit="samples", maximum=budget))
        if sampling.temperature == 0 and budget > 1:
            raise ConfigurationError(
                f"Got {sampling.temperature = } with {budget = }: greedy samples are all the same. "
                "Expected a temperature above 0, such as 0.7, or a budget of 1."
            )
        check_format(answer_format)
        self.prompt = prompt
        self.sampling = sampling
        self.answer_format = answer_format
        self.samples: list[Sample] = []
        self._num_requested = 0
        self._errors: list[str] = []
        self._groups: AnswerGroups | None = None

    def execute(self, grant: int) -> Flow:
        """Send `grant` samples together and keep each as it ends."""
        first = self._num_requested
        self._num_requested += grant
        commands = tuple(self._make_request(index) for index in range(first, self._num_requested))
        for _ in range(grant):
            completion = yield commands
            commands = ()
            self._observe(completion)

    def update_certaindex(self) -> None:
        """Group the answers; a path that states none, or failed, stands alone: silence is never agreement."""
        # By index, not by arrival: the vote must not depend on which sample an engine finished first.
        self.samples.sort(key=lambda sample: sample.index)
        self._groups = group_answers([sample.answer for sample in self.samples], format=self.answer_format)
        sizes = (*self._groups.sizes, *(1 for _ in self._errors))
        self.certaindex = Certaindex(
            entropy=normalised_entropy(sizes),
            agreement=agreement(sizes) if self._groups.groups else None,
            answer_probability=self._majority_probability(),
            num_paths=len(self.samples),
        )

    def select_answer(self) -> str | None:
        """The majority's answer; the group seen first wins a tie."""
        if not self.samples:
            errors = "; ".join(self._errors[:3]) or "no sample was granted"
            raise ProgramError(f"No sample of {self.label!r} was finished: {errors}.")
        return self._groups.groups[0].representative if self._groups and self._groups.groups else None

    def list_votes(self) -> tuple[tuple[str, float], ...]:
        """Answers with the number of samples that state them."""
        groups = self._groups.groups if self._groups else ()
        return tuple((group.representative, float(group.size)) for group in groups)

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
                num_tokens=sample.num_tokens,
                finish_reason=sample.finish_reason,
            )
            for sample in sorted(self.samples, key=lambda sample: sample.index)
        )

    def _make_request(self, index: int) -> Generate:
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "sample", index))
        return Generate(key=self.key(_name_request(index)), prompt=self.prompt, sampling=sampling)

    def _observe(self, completion: Completion) -> None:
        if completion.finish_reason is FinishReason.FAILED:
            self._errors.append(completion.error or "unknown error")
            return
        is_truncated = completion.finish_reason in (FinishReason.LENGTH, FinishReason.CANCELLED)
        found = find_answer(completion.text, format=self.answer_format, is_truncated=is_truncated)
        self.samples.append(
            Sample(
                index=int(completion.key.request_id.removeprefix("sample-")),
                text=completion.text,
                answer=found.text if found else None,
                probability=_read_probability(completion, found),
                num_tokens=completion.usage.net_tokens,
                finish_reason=completion.finish_reason,
            )
        )

    def _majority_probability(self) -> float | None:
        if self._groups is None or not self._groups.groups:
            return None
        probabilities = [self.samples[index].probability for index in self._groups.groups[0].indices]
        return mean_signal([value for value in probabilities if value is not None])


def _name_request(index: int) -> str:
    return f"sample-{index}"


def _read_probability(completion: Completion, found: FoundAnswer | None) -> float | None:
    """Geometric mean probability of the tokens that spell the answer where it was found."""
    if found is None or completion.logprobs is None or completion.offsets is None:
        return None
    borders = [*completion.offsets, len(completion.text)]
    inside = [
        logprob
        for logprob, left, right in zip(completion.logprobs, borders[:-1], borders[1:], strict=True)
        if left < found.end and right > found.start
    ]
    return answer_probability(inside)
