"""What a failover is decided from, beside what the nodes say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pgproof.errors import EngineError, TransientError
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY
from pgproof.model.timelines import TimelineHistory

Answers = Mapping[str, NodeState | EngineError]


@dataclass(frozen=True, slots=True)
class LastPrimary:
    """The primary as somebody saw it last. `synchronous_standby_names` is None where it was not asked for."""

    timeline: int
    position: Lsn
    at: datetime
    node: str = PRIMARY
    synchronous_standby_names: str | None = None
    synchronous_commit: str = "on"


@dataclass(frozen=True, slots=True)
class Archived:
    """What the repository holds of the cluster's WAL: the end of each timeline, and the history files."""

    system_identifier: int
    ends: Mapping[int, Lsn]
    histories: Mapping[int, TimelineHistory] = field(default_factory=dict)

    @property
    def timeline(self) -> int:
        """The highest one that is known there, 0 for none."""
        return max([0, *self.ends, *self.histories])


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a failover has to know of a node that answers: its settings, and what the role that asks may do there.

    `name` is its application_name, by which synchronous_standby_names knows it. `upstream` are the places (host, port) that its
    primary_conninfo names, None where that setting may not be read, and `conninfo_source` is where it comes from
    (pg_settings.source).
    """

    user: str = ""
    name: str = ""
    upstream: tuple[tuple[str, str], ...] | None = ()
    conninfo_source: str = ""
    slot: str = ""
    follows_latest: bool = True
    synchronous_standby_names: str = ""
    synchronous_commit: str = "on"
    may_promote: bool = True
    may_checkpoint: bool = True
    may_make_slots: bool = True
    may_alter: bool = True
    may_reload: bool = True


@dataclass(frozen=True, slots=True)
class FailoverRequest:
    """What is asked for: which `node` is to take over (empty: the best one), whether without a fence, and whether less than the
    best is accepted."""

    node: str = ""
    unfenced: bool = False
    accept_loss: bool = False


def silent(answer: NodeState | EngineError) -> bool:
    """Whether nobody answers there at all. A server that refuses us, or says that it is starting, is alive."""
    return (
        isinstance(answer, TransientError)
        and not answer.context.get("sqlstate")
        and "FATAL" not in str(answer.context.get("reason", ""))
    )
