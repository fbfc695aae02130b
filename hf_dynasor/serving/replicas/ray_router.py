"""Ray Serve's request router, whose interface is young: the one file that touches it. It asks the account, no more."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from hf_dynasor.serving.replicas.account import Account, get_account
from hf_dynasor.serving.replicas.hints import Hint


class ProgramRouter(RequestRouter):  # type: ignore[misc]
    """Sends a request where the account says, for calls whose first argument is a `Hint`; others anywhere."""

    queue_len_response_deadline_s = 2.0
    """A replica whose interpreter is busy with a long prompt answers later than Ray's 0.1 s."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Ray hands over `request_router_kwargs`: `routing`, the name of a routing policy."""
        self._routing = str(kwargs.get("routing", "least_cost"))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, of which the first with room is taken; the chosen one is a rank alone."""
        present = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        first = pending_request.args[0] if pending_request is not None and pending_request.args else None
        chosen = self._account.choose(first if isinstance(first, Hint) else None, list(present))
        return [[present[chosen]]] if chosen is not None else [candidate_replicas]

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """It gets nothing more."""
        super().on_replica_actor_died(replica_id)
        self._account.note_loss(replica_id.unique_id)

    @property
    def _account(self) -> Account:
        return get_account(self.app_name, self._routing)


__all__ = ["ProgramRouter"]
