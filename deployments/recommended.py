"""The recommended deployments: prefect.yaml, read as values. `prefect deploy` reads the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.schedules import Schedule

PREFECT_YAML = Path(__file__).resolve().parent.parent / "prefect.yaml"


@dataclass(frozen=True, slots=True)
class Recommended:
    """One deployment of the file. `schedules` are as Prefect writes them (cron or interval, timezone, slug, active)."""

    name: str
    entrypoint: str
    description: str = ""
    tags: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    schedules: Sequence[Mapping[str, Any]] = ()
    limit: int | None = None

    @property
    def flow(self) -> str:
        """The flow's function, such as `backup`."""
        return self.entrypoint.rpartition(":")[2]


def recommended(path: Path = PREFECT_YAML) -> list[Recommended]:
    """Read the file. Raises PreconditionError for one that cannot be read so."""
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        return [
            Recommended(
                name=each["name"],
                entrypoint=each["entrypoint"],
                description=each.get("description", ""),
                tags=each.get("tags", ()),
                parameters=each.get("parameters", {}),
                schedules=each.get("schedules", ()),
                limit=each.get("concurrency_limit", {}).get("limit"),
            )
            for each in listed
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise PreconditionError(
            "prefect.yaml cannot be read", hint="compare it with the one of the release", reason=error
        ) from error


def for_service(
    found: Sequence[Recommended], config: BackupConfig, *, wal: bool, replicas: bool = False
) -> list[Recommended]:
    """The deployments of a service for one cluster: its settings instead of blocks, its intervals, and its name.

    `wal` says whether WAL is streamed, `replicas` whether there are any.

    The cluster `main` keeps the names of the file, so that `create --via prefect` and the documentation hold.
    """
    return [_for_service(each, config, wal, replicas) for each in found]


def _for_service(each: Recommended, config: BackupConfig, wal: bool, replicas: bool) -> Recommended:
    # An empty name of a block means what the service hands over.
    blocks = {name: "" for name in ("server", "repository", "replicas") if name in each.parameters}
    parameters: dict[str, Any] = {**each.parameters, **blocks}
    schedules = list(each.schedules)
    if each.flow == "backup" and schedules:
        schedule = config.schedules[parameters["type"]]
        schedules = [
            _schedule(schedules[0], schedule),
            *({**other, "active": False} for other in schedules[1:]),
        ]
        if schedule is not None:
            parameters["max_lateness_hours"] = schedule.max_lateness.total_seconds() / 3600
    elif each.flow == "watch_wal":
        schedules = [{**schedule, "active": wal} for schedule in schedules]
    elif each.flow == "replica_health":
        schedules = [{**schedule, "active": replicas} for schedule in schedules]
    if "cluster" in parameters:
        parameters["cluster"] = config.cluster
    name = each.name if config.cluster == "main" else f"{each.name}-{config.cluster}"
    return replace(each, name=name, parameters=parameters, schedules=schedules)


def _schedule(usual: Mapping[str, Any], schedule: Schedule | None) -> Mapping[str, Any]:
    """What replaces the usual schedule: on the same slug, so that it replaces it on the server too."""
    if schedule is None:
        return {**usual, "active": False}
    when = {"cron": schedule.cron, "timezone": "UTC"} if schedule.cron else {"interval": schedule.every}
    return {"slug": usual["slug"], "active": True, **when}
