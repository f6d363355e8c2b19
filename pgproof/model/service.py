"""What the service (`pgproof schedule`) is told, and how its settings reach the runs that it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.replication_config import ReplicationConfig

# The environment variable in which runs find the settings of the service that starts them.
HANDED_OVER = "PGPROOF_SETTINGS"
DEFAULT_UI_PORT = 4200


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How to run the service. `state_dir` keeps the Prefect server's home and password; without it one is chosen.

    `ui_port` is the port of a Prefect server of our own, on loopback. `at_once` is how many runs may be at work beside the
    watches, which are never held up. `stream` says whether WAL is streamed; where backups are logical there is none.
    """

    state_dir: str | None = None
    ui_port: int = DEFAULT_UI_PORT
    at_once: int = 2
    stream: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.ui_port <= 65535:
            raise PreconditionError(
                "the port is not a number from 1 to 65535", hint="set --ui-port", port=self.ui_port
            )
        if not 1 <= self.at_once <= 64:
            raise PreconditionError(
                "the number of runs at once is out of range", hint="choose 1 to 64", at_once=self.at_once
            )


@dataclass(slots=True)
class BackOff:
    """How long to wait before something that ended is started again: doubling, and short again after `steady` of life."""

    shortest: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=5)
    steady: timedelta = timedelta(minutes=2)
    _next: timedelta | None = None

    def after(self, lived: timedelta) -> timedelta:
        """The pause after a life of `lived`."""
        pause = self.shortest if self._next is None or lived >= self.steady else self._next
        self._next = min(self.longest, 2 * pause)
        return pause


@dataclass(slots=True)
class WallClock:
    """Notices that the clock was set back. `wall` and `steady` are seconds of the time of day and of a clock that only runs."""

    wall: float
    steady: float
    least: timedelta = timedelta(minutes=1)

    def set_back(self, wall: float, steady: float) -> timedelta | None:
        """By how much since the last look, if it was more than a correction of seconds."""
        lost = timedelta(seconds=(steady - self.steady) - (wall - self.wall))
        self.wall, self.steady = wall, steady
        return lost if lost >= self.least else None


def hand_over(postgres: PostgresConfig, backup: BackupConfig, replication: ReplicationConfig) -> str:
    """All configurations as one text, secrets included: for the environment of a child, and nowhere else."""
    found = {"postgres": asdict(postgres), "backup": asdict(backup), "replicas": asdict(replication)}
    return json.dumps(found, default=dict)


def handed_over(environ: Mapping[str, str]) -> tuple[PostgresConfig, BackupConfig, ReplicationConfig] | None:
    """What the service that started this process has handed over; None if there is none."""
    text = environ.get(HANDED_OVER)
    if not text:
        return None
    try:
        found: dict[str, dict[str, Any]] = json.loads(text)
        return (
            PostgresConfig(**found["postgres"]),
            BackupConfig.from_mapping(found["backup"]),
            ReplicationConfig.from_mapping(found["replicas"]),
        )
    except (ValueError, KeyError, TypeError):
        # No cause and no text: it holds secrets.
        raise PreconditionError(
            f"{HANDED_OVER} cannot be read", hint="leave it to `pgproof schedule`, which sets it for its runs"
        ) from None
