"""What a Patroni says of the cluster that it manages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_LEADERS = ("leader", "master", "standby_leader")


@dataclass(frozen=True, slots=True)
class PatroniMember:
    """One member; `role` and `state` are Patroni's words (`leader`, `replica`, `sync_standby`; `running`, `streaming`)."""

    name: str
    host: str
    port: int
    role: str
    state: str
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class PatroniView:
    """The members at one moment; without a `leader` nobody holds the lock just now. `paused`: it decides nothing by itself."""

    members: tuple[PatroniMember, ...]
    paused: bool = False

    @property
    def leader(self) -> PatroniMember | None:
        return next((each for each in self.members if each.role in _LEADERS), None)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of what GET /cluster answers. Raises ValueError, TypeError or KeyError for anything else.

        A member that does not say where its server is does not run and is left out.
        """
        members = []
        for each in document["members"]:
            if not each.get("host"):
                continue
            timeline = each.get("timeline")
            members.append(
                PatroniMember(
                    str(each["name"]),
                    str(each["host"]),
                    int(each.get("port") or 5432),
                    str(each["role"]),
                    str(each.get("state", "")),
                    timeline if isinstance(timeline, int) else None,
                )
            )
        return cls(tuple(members), bool(document.get("pause")))
