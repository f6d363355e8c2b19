"""The front door for the replicas of one cluster: what a flow, a script or the command line calls.

Each method imports what it needs, so that the command line starts quickly.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.report import ProgressCallback, no_progress
from pgproof.waiting import in_thread

if TYPE_CHECKING:
    from pgproof.actions.replica_history import Remembered, ReplicaHistory
    from pgproof.actions.watch import Tell
    from pgproof.model.alarms import Message
    from pgproof.model.failover_evidence import FailoverRequest, LastPrimary
    from pgproof.model.failover_plan import Decision, FailoverPlan
    from pgproof.model.failover_report import FailoverReport
    from pgproof.model.job import Job
    from pgproof.model.objectives import Broken
    from pgproof.model.replica_history import Look
    from pgproof.model.replica_status import ReplicaStatus


class ReplicaManager:
    """Looks after the replicas of one cluster.

        manager = ReplicaManager(PostgresConfig.from_env(), ReplicationConfig.from_env())
        status = await manager.status()

    `config` names the repository, where one is used. Raises nothing before it is asked for something.
    """

    def __init__(
        self,
        postgres: PostgresConfig,
        replication: ReplicationConfig,
        config: BackupConfig | None = None,
        *,
        cluster: str | None = None,
    ) -> None:
        self.postgres = postgres
        self.replication = replication
        self.config = config
        self.cluster = cluster or (config.cluster if config is not None else "main")

    async def status(self, before: Sequence[Look] | None = None) -> ReplicaStatus:
        """How all nodes stand now, with what is wrong. Nodes that do not answer are part of the answer.

        `before` are earlier looks; without them those that this machine remembers are used, if there are any.
        """
        from pgproof.actions.replica_status import replica_status

        def look(job: Job) -> ReplicaStatus:
            earlier: Sequence[Look] = before or ()
            if before is None:
                # Somebody else's memory may be out of reach: a look needs none, it is only less exact.
                with contextlib.suppress(PreconditionError):
                    earlier = self._history().read().looks
            return replica_status(self.postgres, self.replication, self.cluster, job, earlier)

        return await in_thread(look)

    async def look(self) -> tuple[ReplicaStatus, Remembered]:
        """As `status`, and remember it: what is remembered now comes with it.

        Raises PreconditionError if the state directory (BACKUP_STATE_DIR) cannot be used.
        """
        from pgproof.actions.replica_status import replica_status
        from pgproof.model.replica_history import look_of

        def remember(job: Job) -> tuple[ReplicaStatus, Remembered]:
            history = self._history()
            before = history.read()
            found = replica_status(self.postgres, self.replication, self.cluster, job, before.looks)
            after = history.append(look_of(found))
            return found, type(after)(after.looks, before.note or after.note)

        return await in_thread(remember)

    async def history(self) -> Remembered:
        """The looks that this machine remembers, the oldest first."""
        return await in_thread(lambda _job: self._history().read())

    async def plan_failover(self, request: FailoverRequest | None = None) -> FailoverPlan:
        """Who would take over, what that would lose, and why it may not be done; nothing is changed.

        What this machine remembers of the primary is part of it. Raises PreconditionError where no replica is configured.
        """
        from pgproof.actions.failover import prepare_failover
        from pgproof.model.failover_evidence import FailoverRequest

        chosen = request or FailoverRequest()
        return await in_thread(
            lambda _job: prepare_failover(
                self.postgres, self.replication, self.config, chosen, self._last_primary()
            )
        )

    async def failover(
        self,
        request: FailoverRequest | None = None,
        *,
        approved: Decision | None = None,
        seconds: float = 60.0,
        progress: ProgressCallback = no_progress,
    ) -> FailoverReport:
        """Promote a replica: the old primary is fenced before, the others are led over after it.

        `approved` is the decision of a plan that somebody agreed to; `seconds` bounds each wait. Raises PreconditionError
        where the plan refuses or the fence did not work, ConflictError where what is found now is not what was approved: then
        nothing was changed. What is broken off is gone on with by the next call.
        """
        from pgproof.actions.failover import failover
        from pgproof.actions.recorded import recorded
        from pgproof.model.config import BackupConfig
        from pgproof.model.failover_evidence import FailoverRequest

        chosen = request or FailoverRequest()

        def work(job: Job) -> FailoverReport:
            return failover(
                self.postgres,
                self.replication,
                self.config,
                chosen,
                job,
                approved=approved,
                last=self._last_primary(),
                seconds=seconds,
            )

        record_in = self.config or BackupConfig()
        return await in_thread(
            lambda job: recorded(
                record_in,
                "replicas promote",
                lambda: work(job),
                lambda report: f"{report.plan.decision}, timeline {report.timeline}",
                asked=chosen.node,
                apart=True,
            ),
            progress,
        )

    def _last_primary(self) -> LastPrimary | None:
        """A failover goes on without it."""
        from pgproof.errors import PreconditionError
        from pgproof.model.replica_history import last_primary

        try:
            return last_primary(self._history().read().looks)
        except PreconditionError:
            return None

    @property
    def can_notify(self) -> bool:
        """Whether a notification URL (BACKUP_NOTIFY_URL) is configured."""
        return self.config is not None and self.config.notify_url is not None

    async def announce(self, broken: Sequence[Broken], tell: Tell | None = None) -> Message | None:
        """Tell what is newly broken, due again, or has recovered, each once: by `tell`, else by the notification URL.

        What was told is remembered in the state directory. Returns the message that was sent, None for none. Raises
        TransientError if it was not taken; then it is told at the next call.
        """
        from pgproof.actions.notify import teller
        from pgproof.actions.watch import announce, state_directory
        from pgproof.repository.alarm_log import LocalLog, folder_for

        def announce_it(_job: Job) -> Message | None:
            folder = folder_for(state_directory(os.environ), "replicas", self.cluster, "all")
            # Where nothing was ever wrong nothing needs to be remembered.
            if not broken and not folder.exists():
                return None
            return announce(
                LocalLog(folder), self.cluster, broken, tell or teller(self.config or BackupConfig())
            )

        return await in_thread(announce_it)

    def _history(self) -> ReplicaHistory:
        from pgproof.actions.replica_history import ReplicaHistory
        from pgproof.actions.watch import state_directory

        return ReplicaHistory(Path(state_directory(os.environ)), self.cluster)
