"""Where a command's answer goes: one JSON document, plain text, or a terminal.

Rules: standard output carries the answer only; progress, warnings and errors go to standard error.
Without a terminal nothing but plain text is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pgproof.cli.exits import error_document
from pgproof.cli.text import Table, duration, printable
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.report import Check

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "yellow")}


class Screen:
    def __init__(self, *, as_json: bool, assume_yes: bool = False) -> None:
        self.as_json = as_json
        self._assume_yes = assume_yes
        self._consoles: dict[bool, Console] = {}

    def document(self, value: Any, *, indent: int | None = 2) -> None:
        """Print the command's answer as JSON, without `indent` on one line. Nothing happens without `--json`."""
        if self.as_json:
            import json

            _write(sys.stdout, json.dumps(value, indent=indent, ensure_ascii=False))

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line for people. Nothing happens with `--json`."""
        if not self.as_json:
            self._print(text, style, to_error=False)

    def warn(self, text: str) -> None:
        self._print(text, "yellow", to_error=True)

    def error(self, error: EngineError) -> None:
        """Show message, facts and HINT; with `--json` the document on standard output."""
        self.document(error_document(error))
        self._print(f"pgproof: {error}", "red", to_error=True)

    def table(self, table: Table) -> None:
        if self.as_json:
            return
        # Too wide for a terminal, its lines wrap as they are: ids stay fit to be copied.
        titles, *rows = table.lines()
        self._print(titles, "bold", to_error=False)
        for row in rows:
            self._print(row, "", to_error=False)

    def figures(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Print labels and values, one pair a line."""
        width = max((len(label) for label, _ in pairs), default=0)
        for label, value in pairs:
            self.say(f"  {label.ljust(width)}  {value}")

    def checks(self, checks: Sequence[Check]) -> None:
        """Print steps with ✓, ✗ or – (could not be checked here), hints under those that failed."""
        for check in checks:
            mark, style = _MARKS[check.ok]
            took = f"  {duration(check.seconds)}" if check.seconds else ""
            detail = f": {check.detail}" if check.detail else ""
            self.say(f"{mark} {check.name}{detail}{took}", style if check.ok is not True else "")
            if check.hint and check.ok is not True:
                self.say(f"  HINT: {check.hint}")

    def confirm(self, question: str) -> None:
        """Return if the person agrees (or said `--yes`).

        Raises PreconditionError if nobody can be asked or the answer is no.
        """
        if self._assume_yes:
            return
        self.refuse_unanswered()
        self._print(f"{question} [y/N] ", "bold", to_error=True, end="")
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise PreconditionError("not confirmed, nothing was changed", hint="answer y, or add --yes")

    def refuse_unanswered(self) -> None:
        """Raises PreconditionError if `confirm` will have nobody to ask: before long work is done in vain."""
        if not self._assume_yes and (not sys.stdin.isatty() or self.as_json):
            raise PreconditionError("this needs a confirmation", hint="add --yes to agree beforehand")

    def console(self, *, to_error: bool) -> Console:
        """The rich console of a stream; only for streams that are terminals."""
        if to_error not in self._consoles:
            from rich.console import Console

            self._consoles[to_error] = Console(stderr=to_error, highlight=False, markup=False, emoji=False)
        return self._consoles[to_error]

    def _print(self, text: str, style: str, *, to_error: bool, end: str = "\n") -> None:
        stream = sys.stderr if to_error else sys.stdout
        if style and stream.isatty():
            self.console(to_error=to_error).print(printable(text), style=style, soft_wrap=True, end=end)
        else:
            _write(stream, printable(text), end=end)


def _write(stream: TextIO, text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more at exit, so the
        # descriptor is pointed elsewhere; the work itself is already done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
