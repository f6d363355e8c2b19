"""What a server needs of the automations and does not tell; that they speak is tested in test_deployed.py."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

from prefect.events.schemas.automations import CompoundTrigger, EventTrigger

from deployments.automations import FAILURES, Silence, missing, recovered_run, there_again
from tests.prefect.stack import ROOT

STATE = re.compile(r'\b(Failed|Completed)\(\s*name="(\w+)"')
SILENCE = Silence("backup", frozenset({"pgproof.backup.completed"}), timedelta(hours=26), "Look.")


def test_a_recovery_is_waited_for_as_long_as_it_takes() -> None:
    """A server forgets a failure when `within` and a minute are over, and tells no recovery then."""
    for automation in (recovered_run(uuid4()), there_again(uuid4(), "main", SILENCE, uuid4())):
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.after and automation.trigger.within >= timedelta(days=365)


def test_silence_is_told_when_its_limit_is_over_and_not_a_window_later() -> None:
    """What begins and ends a window is one event: only then does a server begin a new one at each of them."""
    trigger = missing(uuid4(), "main", SILENCE).trigger
    assert isinstance(trigger, CompoundTrigger) and trigger.require == "any"
    exact, again = trigger.triggers
    assert isinstance(exact, EventTrigger) and isinstance(again, EventTrigger)
    assert exact.after == exact.expect == again.expect == SILENCE.events
    assert (exact.within, again.within, again.after) == (SILENCE.within, 2 * SILENCE.within, set())


def test_every_failure_of_our_flows_has_a_recovery_and_nothing_else_has() -> None:
    states = [each for flow in (ROOT / "flows").glob("*.py") for each in STATE.findall(flow.read_text())]
    failed = {name for kind, name in states if kind == "Failed"}
    completed = {name for kind, name in states if kind == "Completed"}
    assert {"WalInDanger", "FleetFailed"} <= failed and "ObjectiveBroken" in completed
    assert failed | {"Failed", "Crashed", "TimedOut"} == set(FAILURES)
    assert not completed & set(FAILURES)
