"""How a request is to be served: whose it is, how urgent, and by when. From a client's fields to the scheduler's terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request

from hf_dynasor.program_plan import ProgramPlan, ProgramTerms
from hf_dynasor.serving.http.job_store import Job
from hf_dynasor.serving.http.settings import ServerSettings, Tenant

LEAST_S = 0.001
"""A deadline that has passed while its request waited for room is told to the scheduler as this far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingTerms:
    """The terms of one request.

    Args:
        priority: As clients say it: a lower number goes first.
        tenant: Whose it is.
        deadline_at: When it should have ended, in seconds of the server's clock; `None` for no deadline.
    """

    priority: int = 0
    tenant: Tenant = field(default_factory=Tenant)
    deadline_at: float | None = None

    def for_program(self, now: float) -> ProgramTerms:
        """What the scheduler is told, for whom a higher priority goes first."""
        left = None if self.deadline_at is None else max(LEAST_S, self.deadline_at - now)
        return ProgramTerms(
            priority=-self.priority, tenant=self.tenant.name, weight=self.tenant.weight, deadline_s=left
        )

    def plan(self, kind: str, num_choices: int, now: float) -> ProgramPlan:
        """What the scheduler is told of a request without a program: its choices are its units."""
        return ProgramPlan(kind=kind, planned_units=max(1, num_choices), terms=self.for_program(now))

    def describe(self, now: float) -> dict[str, Any]:
        """Whether the deadline was met, for the client; nothing where there was none."""
        return {} if self.deadline_at is None else {"deadline_met": now <= self.deadline_at}


class HasTerms(Protocol):
    """A body that may say how urgent it is."""

    priority: int | None


def read_terms(body: HasTerms, tenant: Tenant | None, now: float) -> ServingTerms:
    """The terms of a request that has just come.

    Args:
        body: What the client sent: `priority`, and a `dynasor.deadline_ms` from now where it has such a field.
        tenant: Whose it is; nobody's by default.
        now: Seconds of the server's clock.
    """
    deadline_ms = getattr(getattr(body, "dynasor", None), "deadline_ms", None)
    return ServingTerms(
        priority=body.priority or 0,
        tenant=tenant or Tenant(),
        deadline_at=None if deadline_ms is None else now + deadline_ms / 1000,
    )


def read_job_terms(job: Job, settings: ServerSettings, *, now: float, wall_now: float) -> ServingTerms:
    """The terms of a job that begins; its deadline has counted since it was submitted, to this server or another.

    Args:
        job: What was submitted.
        settings: For the weight of its tenant.
        now: Seconds of the server's clock.
        wall_now: Unix seconds.
    """
    return ServingTerms(
        priority=job.priority,
        tenant=Tenant(name=job.tenant, weight=settings.find_weight(job.tenant)),
        deadline_at=None if job.deadline is None else now + job.deadline - wall_now,
    )


def read_tenant(request: Request) -> Tenant:
    """Whose a request is: its key's tenant, else its address."""
    tenant = getattr(request.state, "tenant", None)
    return tenant if isinstance(tenant, Tenant) else Tenant()


__all__ = ["LEAST_S", "HasTerms", "ServingTerms", "read_job_terms", "read_tenant", "read_terms"]
