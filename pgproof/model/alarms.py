"""What of the open alarms is told now: what is new, what is due again, what has recovered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pgproof.errors import DataError
from pgproof.model.objectives import Broken, in_words

REMIND = timedelta(hours=24)
# So long may telling take; a claim without word of its end is void then.
CLAIM = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Open `since` then, last told at `told`."""

    since: datetime
    told: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """What was open `at` a moment. While `done` is false, somebody is about to tell a change of it."""

    at: datetime
    done: bool = True
    open: Mapping[str, Alarm] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "done": self.done,
            "open": {
                key: {"since": alarm.since.isoformat(), "told": alarm.told.isoformat()}
                for key, alarm in self.open.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Raises DataError for what is no record."""
        try:
            alarms = {
                str(key): Alarm(_time(each["since"]), _time(each["told"]))
                for key, each in value["open"].items()
            }
            return cls(_time(value["at"]), value["done"] is True, alarms)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError("a record of alarms is damaged", reason=repr(error)[:200]) from error


@dataclass(frozen=True, slots=True)
class Message:
    """One notification, and what is open when it was told."""

    cluster: str
    new: Sequence[Broken]
    again: Sequence[tuple[Broken, timedelta]]
    recovered: Sequence[tuple[str, timedelta]]
    open: Mapping[str, Alarm]

    @property
    def subject(self) -> str:
        if self.open:
            return f"pgproof {self.cluster}: {len(self.open)} broken ({', '.join(sorted(self.open))})"
        return f"pgproof {self.cluster}: recovered"

    @property
    def body(self) -> str:
        lines = [f"{each.key}: {each.text}\nHINT: {each.hint}" for each in self.new]
        lines += [
            f"{each.key}: still so, for {in_words(lasted)}: {each.text}\nHINT: {each.hint}"
            for each, lasted in self.again
        ]
        lines += [f"{key}: recovered after {in_words(lasted)}" for key, lasted in self.recovered]
        return "\n".join(lines)


def what_to_tell(
    cluster: str, record: Record | None, broken: Sequence[Broken], now: datetime, remind: timedelta = REMIND
) -> Message | None:
    """The message that is due, None if there is nothing to tell or somebody else is telling it."""
    if record is not None and not record.done and abs(now - record.at) < CLAIM:
        return None
    known = record.open if record is not None else {}
    new = [each for each in broken if each.key not in known]
    # A clock that was set back must not silence a reminder for ever.
    due = any(abs(now - known[each.key].told) >= remind for each in broken if each.key in known)
    # Once it is told at all, what else is open is told as well: one message, and one clock for the next.
    again = [(each, now - known[each.key].since) for each in broken if each.key in known] if due else []
    keys = {each.key for each in broken}
    recovered = [(key, now - alarm.since) for key, alarm in known.items() if key not in keys]
    if not (new or again or recovered):
        return None
    told_again = {each.key for each, _lasted in again}
    after = {
        each.key: Alarm(known[each.key].since, now if each.key in told_again else known[each.key].told)
        if each.key in known
        else Alarm(now, now)
        for each in broken
    }
    return Message(cluster, new, again, recovered, after)


def _time(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without its zone")
    return found
