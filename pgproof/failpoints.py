"""Named points where a test stops the program; always compiled in, off unless asked for.

`PGPROOF_FAILPOINTS="bucket.create.*@3=kill"` ends the process, as SIGKILL would, when points of these names are
reached for the third time; without `@N` the first time counts. Rules are separated by commas. The actions:

    kill    the process ends at once
    raise   a TransientError
    stop    the process waits, as after SIGSTOP, until somebody sends SIGCONT
    tell    the name is written to standard error, each time it is reached
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
_RULE = re.compile(r"(?P<names>[a-z.*]+)(?:@(?P<nth>[1-9][0-9]*))?=(?P<action>kill|raise|stop|tell)\Z")


@dataclass
class _Rule:
    names: str
    nth: int
    action: str
    hits: int = 0


_lock = threading.Lock()
_rules: list[_Rule] | None = None


def failpoint(*names: str) -> None:
    """Do what a rule for this point says, in most lives nothing. A point may have a more precise second name."""
    if not armed():
        return
    with _lock:
        reached = [rule for rule in _rules or () if any(fnmatchcase(name, rule.names) for name in names)]
        for rule in reached:
            rule.hits += 1
        actions = {rule.action for rule in reached if rule.hits == rule.nth or rule.action == "tell"}
    if "tell" in actions:
        os.write(2, f"failpoint {names[-1]}\n".encode())
    if "kill" in actions:
        os.kill(os.getpid(), signal.SIGKILL)
    if "stop" in actions:
        os.kill(os.getpid(), signal.SIGSTOP)
    if "raise" in actions:
        raise TransientError("a failpoint was reached", hint=f"unset {VARIABLE}", name=names[-1])


def armed() -> bool:
    """Whether there is any rule: what is costly to name need not be named otherwise."""
    if _rules is None:
        arm(os.environ.get(VARIABLE, ""))
    return bool(_rules)


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
