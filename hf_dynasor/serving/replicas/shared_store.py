"""The batch store of several replicas: one SQLite file, each job with one owner, owners that prove they live.

A replica that dies leaves jobs behind that say they run. Its lease runs out, and whoever looks next puts them back into
the queue: none is lost, and what had ended stays ended. For processes of one machine: SQLite's locks do not hold on
network file systems.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http.job_store import Job, JobStatus, SqliteJobStore

logger = logging.getLogger(__name__)

LEASE_S = 10.0

_OWNERS = """
CREATE TABLE IF NOT EXISTS owners (id TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (owner TEXT PRIMARY KEY, expires REAL NOT NULL);
"""
_LIVE = "SELECT owner FROM leases WHERE expires > ?"


class SharedJobStore(SqliteJobStore):
    """A `JobStore` that several processes of one machine share.

    A single program is kept for the replica that took it in, which tells its events; the programs of a batch are for
    whoever has room.

    Args:
        path: The file.
        owner: This process's name, unlike all others'.
        lease_s: Seconds after which an owner that says nothing counts as dead. It says so three times as often.
        wall_time: Unix seconds, the same for all processes.
        beats: Whether to renew the lease in a thread; tests do it themselves.

    Raises:
        InputError: The file cannot be opened, or is no database of jobs.
    """

    def __init__(
        self,
        path: str | Path,
        owner: str,
        *,
        lease_s: float = LEASE_S,
        wall_time: Callable[[], float] = time.time,
        beats: bool = True,
    ) -> None:
        if str(path) == ":memory:" or lease_s <= 0:
            raise ConfigurationError(
                f"Got {path = !s} and {lease_s = } but expected a file, and seconds above 0."
            )
        super().__init__(path)
        self.owner = owner
        self._lease_s, self._wall_time = lease_s, wall_time
        self._done = threading.Event()
        with self._lock:
            self._db.execute("PRAGMA busy_timeout=30000")
            self._db.executescript(_OWNERS)
        self.beat()
        self._thread: threading.Thread | None = None
        if beats:
            self._thread = threading.Thread(target=self._beat_on, name="hf_dynasor-lease", daemon=True)
            self._thread.start()

    def beat(self) -> int:
        """Renew the lease, and put jobs of the dead back into the queue; how many there were."""
        now = self._wall_time()
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (self.owner, now + self._lease_s))
            self._db.execute("DELETE FROM leases WHERE expires < ?", (now - 100 * self._lease_s,))
            num_left = self._requeue_orphans(now)
            self._db.execute("COMMIT")
        return num_left

    def add(self, jobs: Sequence[Job]) -> None:
        """See `JobStore`; single programs are reserved for this process."""
        super().add(jobs)
        rows = [(job.id, self.owner) for job in jobs if job.batch is None]
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO owners VALUES (?, ?)", rows)

    def take(self, limit: int) -> list[Job]:
        """See `JobStore`; only jobs that are this process's, or nobody's who lives."""
        query = (
            "SELECT jobs.id FROM jobs LEFT JOIN owners ON owners.id = jobs.id WHERE status = ? AND "
            f"(owner IS NULL OR owner = ? OR owner NOT IN ({_LIVE})) ORDER BY number LIMIT ?"
        )
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            values = (JobStatus.QUEUED.value, self.owner, self._wall_time(), limit)
            names = [row[0] for row in self._db.execute(query, values).fetchall()]
            self._db.executemany(
                "UPDATE jobs SET status = ?, num_attempts = num_attempts + 1 WHERE id = ?",
                [(JobStatus.RUNNING.value, name) for name in names],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO owners VALUES (?, ?)", [(name, self.owner) for name in names]
            )
            self._db.execute("COMMIT")
        found = [self.get(name) for name in names]
        return [replace(job, status=JobStatus.RUNNING) for job in found if job is not None]

    def requeue(self, job_id: str) -> bool:
        """See `JobStore`; it is nobody's then. A job that another process took meanwhile is left alone."""
        query = "UPDATE jobs SET status = ? WHERE id = ? AND status = ? AND id IN (SELECT id FROM owners WHERE owner = ?)"
        values = (JobStatus.QUEUED.value, job_id, JobStatus.RUNNING.value, self.owner)
        with self._lock:
            has_changed = self._db.execute(query, values).rowcount == 1
            if has_changed:
                self._db.execute("DELETE FROM owners WHERE id = ?", (job_id,))
        return has_changed

    def recover(self) -> int:
        """Jobs of the dead go back into the queue; those of other replicas that live are left alone."""
        return self.beat()

    def find_owner(self, job_id: str) -> str | None:
        """The live process that a job which has not ended belongs to."""
        query = (
            "SELECT owner FROM owners JOIN jobs ON jobs.id = owners.id "
            f"WHERE owners.id = ? AND status IN (?, ?) AND owner IN ({_LIVE})"
        )
        values = (job_id, JobStatus.QUEUED.value, JobStatus.RUNNING.value, self._wall_time())
        with self._lock:
            row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def count_waiting(self) -> int:
        """Jobs that nobody runs yet."""
        with self._lock:
            query = "SELECT COUNT(*) FROM jobs WHERE status = ?"
            return int(self._db.execute(query, (JobStatus.QUEUED.value,)).fetchone()[0])

    def close(self) -> None:
        """End the lease and let go of the file."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(self._lease_s)
        with self._lock:
            self._db.execute("DELETE FROM leases WHERE owner = ?", (self.owner,))
        super().close()

    def _requeue_orphans(self, now: float) -> int:
        query = (
            "UPDATE jobs SET status = ? WHERE status = ? AND id NOT IN "
            f"(SELECT id FROM owners WHERE owner IN ({_LIVE}))"
        )
        values = (JobStatus.QUEUED.value, JobStatus.RUNNING.value, now)
        return self._db.execute(query, values).rowcount

    def _beat_on(self) -> None:
        while not self._done.wait(self._lease_s / 3):
            try:
                if num_left := self.beat():
                    logger.warning("%d programs of a replica that is gone go back into the queue.", num_left)
            except sqlite3.Error as error:
                logger.error("The lease of %s could not be renewed: %s", self.owner, error)


__all__ = ["LEASE_S", "SharedJobStore"]
