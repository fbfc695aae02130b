"""Self-consistency over internal chains of thought: width and depth stopped together (paper §5, §6).

Several chains of one question run side by side and are read while they think. A chain ends by its own rule
(depth); the program ends once the vote of all chains, those that still think included, is certain (width).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hf_dynasor.answers import AnswerGroups
from hf_dynasor.answers.groupers import KeyGrouper
from hf_dynasor.certaindex import Certaindex, Thresholds, agreement, mean_signal, normalised_entropy
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Decision, Knob, StopReason
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import Flow, ReasoningProgram, derive_seed
from hf_dynasor.programs.chain_of_thought import CHAIN_SAMPLING, DEFAULT_SETTINGS, ChainOfThought
from hf_dynasor.programs.chain_settings import ChainSettings
from hf_dynasor.programs.children import ChildGroup, GrantAll, run_children
from hf_dynasor.programs.voting import Tally, count_votes, is_decided


class ChainConsistency(ReasoningProgram):
    """Vote over chains of thought that are read while they run.

    Args:
        prompt: What every chain continues.
        budget: Most chains.
        sampling: How each is decoded; `max_new_tokens` is the budget of one chain. Its `seed` seeds the program.
        settings: How each chain is read and when it ends by itself.
        thresholds: What the certaindex of all chains' newest answers must exceed for the vote to be certain; `None`
            reads it between grants only.
        min_settled: How many chains must have ended before newest answers of chains that still think count as
            certain: early readings repeat placeholders. Among the chains that ended, the winner must lead too.
        stop_decided: Give up chains once no answer that is still out can change the vote of those that ended.
        label: What people call it.

    Raises:
        ConfigurationError: Greedy chains, which are all the same, or `min_settled` below 1.
    """

    name = "chain_consistency"
    signals = frozenset({"entropy", "agreement", "answer_probability"})

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int = 8,
        sampling: SamplingParams = CHAIN_SAMPLING,
        settings: ChainSettings = DEFAULT_SETTINGS,
        thresholds: Thresholds | None = None,
        min_settled: int = 2,
        stop_decided: bool = True,
        label: str = "question",
    ) -> None:
        super().__init__(label=label, knob=Knob(unit="chains", maximum=budget))
        if sampling.temperature == 0 and budget > 1:
            raise ConfigurationError(
                f"Got {sampling.temperature = } with {budget = }: greedy chains are all the same. "
                "Expected a temperature above 0, such as 0.6, or a budget of 1."
            )
        if min_settled < 1:
            raise ConfigurationError(f"Got {min_settled = } but expected at least 1.")
        self.prompt, self.sampling, self.settings = prompt, sampling, settings
        self.thresholds, self.min_settled, self.stop_decided = thresholds, min_settled, stop_decided
        self.chains: list[ChainOfThought] = []
        self._errors: dict[int, str] = {}
        self._grouper = KeyGrouper(format=settings.answer_format)
        self._groups: AnswerGroups | None = None
        self._tallies: list[Tally] = []
        self._ending: str | None = None

    def execute(self, grant: int) -> Flow:
        """Start `grant` chains together and let them run until each has ended, or the vote is certain."""
        first = len(self.chains)
        self.chains += [self._make_chain(index) for index in range(first, first + grant)]
        children = {
            f"chain-{index}": (self.chains[index], GrantAll()) for index in range(first, first + grant)
        }
        group = ChildGroup(self.key, children)

        def decide(_: str) -> Iterable[str]:
            self.usage = self.usage + group.take_extra()
            for name, outcome in group.outcomes.items():
                if outcome.error is not None:
                    self._errors[_read_index(name)] = str(outcome.error)
            return children if self._is_over() else ()

        yield from run_children(group, decide)

    def find_ending(self) -> Decision | None:
        """The joint stop, once it has come."""
        if self._ending is None:
            return None
        return Decision(units=0, stop_reason=StopReason.CERTAIN, explanation=self._ending)

    def update_certaindex(self) -> None:
        """Group the newest answers of all chains; a chain without one stands alone."""
        self.certaindex = self._read()

    def select_answer(self) -> str | None:
        """The majority of the chains' newest answers; the group seen first wins a tie."""
        if not self._list_alive():
            errors = "; ".join(list(self._errors.values())[:3]) or "no chain was granted"
            raise ProgramError(f"No chain of {self.label!r} was generated: {errors}.")
        return self._tallies[0].group.representative if self._tallies else None

    def list_votes(self) -> tuple[tuple[str, float], ...]:
        """Answers with the number of chains that state them."""
        return tuple((tally.group.representative, tally.weight) for tally in self._tallies)

    def list_groups(self) -> tuple[int, ...]:
        """The group of each chain that did not fail."""
        return self._groups.list_memberships() if self._groups else ()

    def list_paths(self) -> tuple[PathRecord, ...]:
        """The pieces of all chains, chain by chain."""
        return tuple(
            replace(
                piece,
                request_id=f"chain-{index}/{piece.request_id}",
                parent=None if piece.parent is None else f"chain-{index}/{piece.parent}",
                unit=index,
            )
            for index, chain in enumerate(self.chains)
            for piece in chain.list_paths()
        )

    def _make_chain(self, index: int) -> ChainOfThought:
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "chain", index))
        return ChainOfThought(
            self.prompt,
            budget=self.sampling.max_new_tokens,
            sampling=sampling,
            settings=self.settings,
            label=f"{self.label}/chain-{index}",
        )

    def _list_alive(self) -> list[int]:
        return [index for index in range(len(self.chains)) if index not in self._errors]

    def _read(self) -> Certaindex:
        """The certaindex of what all chains say now."""
        alive = self._list_alive()
        self._groups = self._grouper.group([self.chains[index].newest_answer for index in alive])
        self._tallies = count_votes(self._groups.groups, samples=alive)
        sizes = (*self._groups.sizes, *(1 for _ in self._errors))
        winner = self._tallies[0].group.indices if self._tallies else ()
        probabilities = [self.chains[alive[place]].newest_probability for place in winner]
        return Certaindex(
            entropy=normalised_entropy(sizes),
            agreement=agreement(sizes) if self._groups.groups else None,
            answer_probability=mean_signal([value for value in probabilities if value is not None]),
            num_paths=len(alive),
        )

    def _is_over(self) -> bool:
        """Whether the vote is decided or certain before every chain has ended."""
        settled = [index for index in self._list_alive() if self.chains[index].is_settled]
        num_out = self.knob.maximum - len(settled) - len(self._errors)
        if not num_out or not settled:
            return False
        groups = self._grouper.group([self.chains[index].newest_answer for index in settled])
        tallies = count_votes(groups.groups, samples=settled)
        counted = {*settled, *self._errors}
        out = [index for index in range(self.knob.maximum) if index not in counted]
        if self.stop_decided and is_decided(tallies, out):
            self._ending = (
                f"no vote of the {num_out} chains left of {self.knob.maximum} can change the answer"
            )
        elif self.thresholds is not None and len(settled) >= self.min_settled and tallies:
            reading = self._read()
            is_same = bool(self._tallies) and self._tallies[0].group.key == tallies[0].group.key
            if is_same and self.thresholds.are_exceeded_by(reading):
                words = self.thresholds.describe(reading)
                self._ending = f"{words} with {len(settled)} of {len(self.chains)} chains at their end"
        return self._ending is not None


def _read_index(name: str) -> int:
    return int(name.removeprefix("chain-"))
