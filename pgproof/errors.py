"""The four errors of the engine, told apart by who must act."""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Base class: a lowercase fact, a `hint` that says what to do next, and the facts as keywords.

    Errors survive pickling (Prefect moves them between processes) and never carry secrets.
    """

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.hint = hint
        self.context = context

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        facts = ", ".join(f"{key}={value}" for key, value in self.context.items())
        text = self.message + (f" ({facts})" if facts else "")
        return f"{text}\nHINT: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.context)


def _rebuild(kind: type[EngineError], message: str, hint: str, context: dict[str, Any]) -> EngineError:
    return kind(message, hint=hint, **context)


class TransientError(EngineError):
    """The same call may succeed if it is tried again: a network, a server that is starting."""


class PreconditionError(EngineError):
    """The operator must change something first: a setting, a right, free space, an argument."""


class DataError(EngineError):
    """Stored bytes are missing or wrong. Trying again does not help; another copy may."""


class ConflictError(EngineError):
    """Somebody else holds the lease, or stored something different under the same name."""


class Cancelled(Exception):
    """Not an error: whoever started the work asked it to stop, and it has cleaned up after itself."""
