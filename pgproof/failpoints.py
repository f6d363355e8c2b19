"""Named points where a test stops the program; always compiled in, off unless asked for.

`PGPROOF_FAILPOINTS="bucket.create.*@3=kill"` ends the process, as SIGKILL would, when points of these names are
reached for the third time; `raise` raises a TransientError instead. Rules are separated by commas; without
`@N` the first time counts.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pgproof.errors import PreconditionError, TransientError

VARIABLE = "PGPROOF_FAILPOINTS"
_RULE = re.compile(r"(?P<names>[a-z.*]+)(?:@(?P<nth>[1-9][0-9]*))?=(?P<action>kill|raise)\Z")


@dataclass
class _Rule:
    names: str
    nth: int
    action: str
    hits: int = 0


_lock = threading.Lock()
_rules: list[_Rule] | None = None


def failpoint(name: str) -> None:
    """Do what a rule for this point says, in most lives nothing."""
    if _rules is None:
        arm(os.environ.get(VARIABLE, ""))
    if not _rules:
        return
    with _lock:
        reached = [rule for rule in _rules if fnmatchcase(name, rule.names)]
        for rule in reached:
            rule.hits += 1
        action = next((rule.action for rule in reached if rule.hits == rule.nth), "")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise TransientError("a failpoint was reached", hint=f"unset {VARIABLE}", name=name)


def arm(text: str) -> None:
    """Replace the rules of this process. Raises PreconditionError for what is not a rule."""
    global _rules
    rules = []
    for each in filter(None, text.split(",")):
        found = _RULE.match(each.strip())
        if found is None:
            raise PreconditionError(
                "not a failpoint rule", hint=f"write {VARIABLE}=name@3=kill, or unset it", rule=each
            )
        rules.append(_Rule(found["names"], int(found["nth"] or 1), found["action"]))
    with _lock:
        _rules = rules
