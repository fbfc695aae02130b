"""The account that a process keeps of the replicas it routes to, shared between whoever asks and Ray's router."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from hf_dynasor.scheduler.router import Router
from hf_dynasor.scheduler.routing import make_routing_policy
from hf_dynasor.serving.replicas.hints import Hint

MAX_ANSWERS = 100_000
"""Most answers whose replica is remembered; the oldest are forgotten first."""


class Account:
    """Who is there, who has how much to do, and who gave which answer. Safe to use from any thread.

    Args:
        routing: The name of a routing policy.
        cache_tokens: See `Router`.
    """

    def __init__(self, routing: str = "least_cost", *, cache_tokens: int = 100_000) -> None:
        self._router = Router(make_routing_policy(routing), cache_tokens=cache_tokens)
        self._answers: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def replicas(self) -> tuple[str, ...]:
        """Those that are there."""
        with self._lock:
            return self._router.replicas

    def choose(self, hint: Hint | None, present: Sequence[str]) -> str | None:
        """The replica for a request among those that are there now; `None` where anyone will do."""
        with self._lock:
            for name in set(self._router.replicas) - set(present):
                self._router.remove_replica(name)
            for name in present:
                self._router.add_replica(name)
            if hint is None or not present:
                return None
            wanted = hint.replica or self._answers.get(hint.known_id or "", "")
            among = [wanted] if wanted in present else [name for name in present if name not in hint.avoid]
            return self._router.route(hint.key, hint.routed, among or list(present))

    def find(self, key: str) -> str | None:
        """The replica that a request was sent to and has not ended on."""
        with self._lock:
            return self._router.find(key)

    def note_answer(self, answer_id: str, replica: str) -> None:
        """A replica gave an answer that it may be asked about."""
        with self._lock:
            self._answers[answer_id] = replica
            self._answers.move_to_end(answer_id)
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)

    def note_end(self, key: str, tokens: float | None) -> None:
        """A request is over; see `Router.ended`."""
        with self._lock:
            self._router.ended(key, tokens)

    def note_loss(self, replica: str) -> None:
        """A replica died."""
        with self._lock:
            self._router.remove_replica(replica)

    def describe(self) -> list[dict[str, Any]]:
        """Each replica's outstanding programs and work."""
        with self._lock:
            views = [self._router.view(name) for name in self._router.replicas]
        return [
            {"replica": view.name, "num_programs": view.num_programs, "work": round(view.work)}
            for view in views
        ]


_accounts: dict[str, Account] = {}
_accounts_lock = threading.Lock()


def get_account(application: str, routing: str = "least_cost") -> Account:
    """This process's account of an application; made when it is first asked for."""
    with _accounts_lock:
        if application not in _accounts:
            _accounts[application] = Account(routing)
        return _accounts[application]


__all__ = ["MAX_ANSWERS", "Account", "get_account"]
