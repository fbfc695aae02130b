"""An estimator that knows what every program will cost: the bound that no estimate can pass."""

from __future__ import annotations

from hf_dynasor.scheduler.estimates import Estimate, WorkEstimator, WorkSoFar
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram


class Oracle(WorkEstimator):
    """Remaining work is the program's real total less what its finished branches took."""

    def __init__(self) -> None:
        super().__init__()
        self._totals: dict[str, SimulatedProgram] = {}

    def foresee(self, program_id: str, twin: SimulatedProgram) -> None:
        """Run a twin of the program to its end."""
        while indices := twin.ask():
            shortest_first = sorted(indices, key=lambda index: twin.branches[index].num_tokens)
            for index in shortest_first:
                if twin.note_finished(index):
                    break
            for index in tuple(twin.open):
                twin.give_up(index, twin.branches[shortest_first[-1]].num_tokens)
        self._totals[program_id] = twin

    def estimate(self, kind: str, work: WorkSoFar) -> Estimate:
        """What the program will really cost from now on."""
        twin = self._totals.get(work.program_id)
        if twin is None:
            return super().estimate(kind, work)
        return Estimate(
            units=max(0, twin.num_units - work.finished_units),
            tokens=max(0, twin.num_tokens - work.finished_tokens),
            steps=sum(
                _count_longest(twin, record.total - record.units, record.total)
                for record in twin.trace
                if record.total > work.finished_units
            ),
        )


def _count_longest(twin: SimulatedProgram, first: int, end: int) -> int:
    return max(branch.num_tokens for branch in twin.branches[first:end])


__all__ = ["Oracle"]
