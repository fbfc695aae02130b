"""Programs that were asked for and what became of them, kept across crashes. The store is behind an interface."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from hf_dynasor.errors import InputError


class JobStatus(str, Enum):
    """Where a job is. Every job ends in one of the last three, once."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program that was asked for.

    Args:
        id: Its name.
        batch: The batch that it belongs to, if any.
        position: Its place in the batch.
        created: Unix seconds.
        request: What was asked, as it came.
        status: Where it is.
        result: What it ended with, when completed.
        error: Why it failed.
        num_attempts: How often it was begun.
        tenant: Whose it is.
        priority: A lower number is taken first.
        deadline: When it should have ended, in Unix seconds; `None` for no deadline.
    """

    id: str
    batch: str | None = None
    position: int = 0
    created: int
    request: dict[str, Any]
    status: JobStatus = JobStatus.QUEUED
    result: dict[str, Any] | None = field(default=None)
    error: str | None = None
    num_attempts: int = 0
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None


class JobStore(Protocol):
    """Where jobs are kept. Safe to use from any thread; what a call changed is kept when it returns."""

    def add(self, jobs: Sequence[Job]) -> None:
        """Keep new jobs, all or none; a name that is kept already raises `InputError`."""
        ...

    def get(self, job_id: str) -> Job | None:
        """The job of a name, if it is kept."""
        ...

    def list_jobs(self, *, batch: str | None = None, limit: int = 100, after: str | None = None) -> list[Job]:
        """Jobs of a batch by position, or all jobs with the newest first; after the one named `after`."""
        ...

    def count(self, batch: str) -> dict[JobStatus, int]:
        """How many jobs of a batch are where; statuses without any are left out."""
        ...

    def take(self, limit: int) -> list[Job]:
        """Queued jobs, lowest priority number first, then the oldest, marked as running; each is taken once."""
        ...

    def finish(
        self,
        job_id: str,
        status: JobStatus,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End a job that has not ended; returns whether this call did."""
        ...

    def requeue(self, job_id: str) -> bool:
        """Put a running job back into the queue."""
        ...

    def recover(self) -> int:
        """Put everything that was running when the last server died back into the queue; how many there were."""
        ...

    def forget(self, keep: int) -> int:
        """Forget the oldest jobs that have ended and belong to no batch, beyond so many."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    batch TEXT,
    position INTEGER NOT NULL,
    created INTEGER NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    result TEXT,
    error TEXT,
    num_attempts INTEGER NOT NULL DEFAULT 0,
    tenant TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    deadline REAL
);
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, number);
CREATE INDEX IF NOT EXISTS by_batch ON jobs (batch, position);
"""
_COLUMNS = (
    "id, batch, position, created, request, status, result, error, num_attempts, tenant, priority, deadline"
)

# Columns that files of earlier releases lack.
_ADDED = {"tenant": "TEXT NOT NULL DEFAULT ''", "priority": "INTEGER NOT NULL DEFAULT 0", "deadline": "REAL"}


class SqliteJobStore:
    """Jobs in one SQLite file, or in memory.

    Args:
        path: The file; `:memory:` keeps nothing after the process.

    Raises:
        InputError: The file cannot be opened, or is no database of jobs.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(str(path), check_same_thread=False, isolation_level=None)
            # With a write-ahead log a commit survives the process; `FULL` lets it survive the machine too.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            present = {row[1] for row in self._db.execute("PRAGMA table_info(jobs)")}
            for name, kind in _ADDED.items():
                if name not in present:
                    self._db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
            self._db.execute(f"SELECT {_COLUMNS} FROM jobs LIMIT 1")
        except sqlite3.Error as error:
            raise InputError(
                f"Cannot keep jobs in {path}: {error}. Choose a file in a folder that can be written."
            ) from None

    def add(self, jobs: Sequence[Job]) -> None:
        """See `JobStore`."""
        rows = [
            (
                *(job.id, job.batch, job.position, job.created, json.dumps(job.request), job.status.value),
                *(job.tenant, job.priority, job.deadline),
            )
            for job in jobs
        ]
        names = "id, batch, position, created, request, status, tenant, priority, deadline"
        query = f"INSERT INTO jobs ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(query, rows)
            except sqlite3.IntegrityError as error:
                self._db.execute("ROLLBACK")
                raise InputError(f"A job of this name is kept already: {error}.") from None
            self._db.execute("COMMIT")

    def get(self, job_id: str) -> Job | None:
        """See `JobStore`."""
        with self._lock:
            row = self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _read_row(row) if row else None

    def list_jobs(self, *, batch: str | None = None, limit: int = 100, after: str | None = None) -> list[Job]:
        """See `JobStore`."""
        if batch is not None:
            where, order = "batch = ?", "position"
            values: tuple[Any, ...] = (batch,)
            if after is not None:
                where += " AND position > COALESCE((SELECT position FROM jobs WHERE id = ?), -1)"
                values += (after,)
        else:
            where, order, values = "1", "number DESC", ()
            if after is not None:
                where = "number < COALESCE((SELECT number FROM jobs WHERE id = ?), 0)"
                values = (after,)
        query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY {order} LIMIT ?"
        with self._lock:
            rows = self._db.execute(query, (*values, limit)).fetchall()
        return [_read_row(row) for row in rows]

    def count(self, batch: str) -> dict[JobStatus, int]:
        """See `JobStore`."""
        query = "SELECT status, COUNT(*) FROM jobs WHERE batch = ? GROUP BY status"
        with self._lock:
            rows = self._db.execute(query, (batch,)).fetchall()
        return {JobStatus(name): number for name, number in rows}

    def take(self, limit: int) -> list[Job]:
        """See `JobStore`."""
        query = f"SELECT {_COLUMNS} FROM jobs WHERE status = ? ORDER BY priority, number LIMIT ?"
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            rows = self._db.execute(query, (JobStatus.QUEUED.value, limit)).fetchall()
            self._db.executemany(
                "UPDATE jobs SET status = ?, num_attempts = num_attempts + 1 WHERE id = ?",
                [(JobStatus.RUNNING.value, row[0]) for row in rows],
            )
            self._db.execute("COMMIT")
        return [
            replace(job, status=JobStatus.RUNNING, num_attempts=job.num_attempts + 1)
            for job in map(_read_row, rows)
        ]

    def finish(
        self,
        job_id: str,
        status: JobStatus,
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """See `JobStore`."""
        if not status.is_final:
            raise InputError(f"Got {status.value!r} but expected completed, failed or cancelled.")
        query = "UPDATE jobs SET status = ?, result = ?, error = ? WHERE id = ? AND status IN (?, ?)"
        row = json.dumps(result) if result is not None else None
        open_ones = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
        with self._lock:
            return self._db.execute(query, (status.value, row, error, job_id, *open_ones)).rowcount == 1

    def requeue(self, job_id: str) -> bool:
        """See `JobStore`."""
        query = "UPDATE jobs SET status = ? WHERE id = ? AND status = ?"
        with self._lock:
            values = (JobStatus.QUEUED.value, job_id, JobStatus.RUNNING.value)
            return self._db.execute(query, values).rowcount == 1

    def recover(self) -> int:
        """See `JobStore`."""
        query = "UPDATE jobs SET status = ? WHERE status = ?"
        with self._lock:
            return self._db.execute(query, (JobStatus.QUEUED.value, JobStatus.RUNNING.value)).rowcount

    def forget(self, keep: int) -> int:
        """See `JobStore`."""
        final = tuple(status.value for status in JobStatus if status.is_final)
        marks = ", ".join("?" * len(final))
        query = (
            f"DELETE FROM jobs WHERE batch IS NULL AND status IN ({marks}) AND number NOT IN "
            f"(SELECT number FROM jobs WHERE batch IS NULL AND status IN ({marks}) ORDER BY number DESC LIMIT ?)"
        )
        with self._lock:
            return self._db.execute(query, (*final, *final, keep)).rowcount

    def close(self) -> None:
        """See `JobStore`."""
        with self._lock:
            self._db.close()


def _read_row(row: Sequence[Any]) -> Job:
    return Job(
        id=row[0],
        batch=row[1],
        position=row[2],
        created=row[3],
        request=json.loads(row[4]),
        status=JobStatus(row[5]),
        result=json.loads(row[6]) if row[6] is not None else None,
        error=row[7],
        num_attempts=row[8],
        tenant=row[9],
        priority=row[10],
        deadline=row[11],
    )
