"""Our own depth policy as replays name it; what it does stands in `hf_dynasor.certaindex.evidence`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.certaindex.evidence import EvidenceSettings, EvidenceState, measure
from hf_dynasor.scheduler.depth import DepthState


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceExit(EvidenceSettings):
    """Stop once the evidence for the newest boundary's answer exceeds a threshold; options as in `EvidenceSettings`.

    The stopping rule of this name, `hf_dynasor.stopping.AccumulatedEvidence`, decides by the same state.
    """

    name: str = "evidence"

    def start(self, *, cap: int | None = None) -> DepthState:
        """No answer yet. `cap` is the most tokens that the chain may have, where that is known."""
        return EvidenceState(self, cap)


__all__ = ["EvidenceExit", "measure"]
