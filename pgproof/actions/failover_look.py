"""Everything that a failover is planned from: what the nodes answer, what the archive holds, what Patroni says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Thread

from pgproof.actions.opening import open_for_reading
from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.failover_evidence import Answers, Archived, FailoverRequest, LastPrimary, NodeFacts
from pgproof.model.failover_plan import FailoverPlan, plan_failover
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY, ReplicationConfig
from pgproof.model.servers import listed_servers, place
from pgproof.postgres.failover_facts import facts_of_all
from pgproof.postgres.node_query import measure_nodes
from pgproof.postgres.patroni import patroni_leader
from pgproof.repository.wal_archive import WalArchive

LOOK_SECONDS = 5.0
_ARCHIVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which servers it is about, and the repository that keeps their WAL; None if there is none."""

    servers: Mapping[str, PostgresConfig]
    replication: ReplicationConfig
    repository: BackupConfig | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen at one time. `archive_problem` says why the archive is not known, although there is one."""

    answers: Answers
    facts: Mapping[str, NodeFacts]
    archive: Archived | None = None
    archive_problem: str = ""
    patroni_leader: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def plan(
        self, cluster: Cluster, request: FailoverRequest, last: LastPrimary | None = None
    ) -> FailoverPlan:
        made = plan_failover(
            self.answers,
            cluster.replication,
            request,
            self.at,
            facts=self.facts,
            last=last,
            archive=self.archive,
            patroni_leader=self.patroni_leader,
        )
        return made.noting(
            f"the archive is not known: {self.archive_problem}" if self.archive_problem else ""
        )


def cluster_of(
    postgres: PostgresConfig, replication: ReplicationConfig, repository: BackupConfig | None
) -> Cluster:
    """Raises PreconditionError where no replica is configured, or the primary is a list of hosts."""
    if not replication.replicas:
        raise PreconditionError(
            "no replica is configured",
            hint="set READ_REPLICA_HOSTS=replica1:5432,replica2:5432, or [replicas] in the file",
        )
    if len(listed_servers(postgres)) > 1:
        raise PreconditionError(
            "the primary is given as a list of hosts, so that it is not known which one to fence",
            hint="name the one that is, or was, the primary: --host, or PGHOST",
        )
    servers = replication.servers(postgres)
    # Where a replica has become the configured primary it is one server, whatever list still names it.
    first = place(postgres)
    same = [name for name, server in servers.items() if name != PRIMARY and place(server) == first]
    kept = {name: server for name, server in servers.items() if name not in same}
    stored = repository if repository is not None and _configured(repository) else None
    return Cluster(kept, replication, stored)


def look(cluster: Cluster) -> Evidence:
    """Ask everybody. What cannot be asked is part of the answer."""
    answers = measure_nodes(cluster.servers, LOOK_SECONDS)
    alive = {node: cluster.servers[node] for node, found in answers.items() if isinstance(found, NodeState)}
    archive, problem = None, ""
    if cluster.repository is not None:
        try:
            archive = archived(cluster.repository)
        except EngineError as error:
            problem = error.message
    return Evidence(
        answers=answers,
        facts=facts_of_all(alive, LOOK_SECONDS),
        archive=archive,
        archive_problem=problem,
        patroni_leader=_patroni(cluster.replication),
    )


def _configured(config: BackupConfig) -> bool:
    return bool(config.repository_url or config.backup_dir or config.s3_bucket)


def archived(config: BackupConfig) -> Archived:
    """What the repository holds. Raises TransientError after a while: a silent store must not hold a failover up."""
    found: list[Archived | EngineError] = []

    def read() -> None:
        try:
            archive = WalArchive.open(open_for_reading(config.completed(os.environ)))
            inventory = archive.inventory()
            coverage = inventory.stored()
            ends = {number: coverage.of_timeline(number)[-1].end for number in coverage.timelines}
            histories = {number: archive.history(number) for number in inventory.histories}
            found.append(Archived(int(archive.system_identifier), ends, histories))
        except EngineError as error:
            found.append(error)

    reader = Thread(target=read, name="pgproof-archive", daemon=True)
    reader.start()
    reader.join(_ARCHIVE_SECONDS)
    if not found:
        raise TransientError("the repository does not answer", hint="see its store", seconds=_ARCHIVE_SECONDS)
    if isinstance(found[0], EngineError):
        raise found[0]
    return found[0]


def _patroni(replication: ReplicationConfig) -> str:
    """Its leader; empty where there is no Patroni, or it does not say."""
    if not replication.patroni_urls:
        return ""
    try:
        leader = patroni_leader(replication.patroni_urls, LOOK_SECONDS).leader
    except TransientError:
        return ""
    return leader.name if leader is not None else "nobody holds its lock"
