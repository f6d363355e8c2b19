"""What a server needs of the automations and does not tell; that they speak is tested in test_deployed.py."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from prefect.events.schemas.automations import EventTrigger

from deployments.automations import Silence, recovered_run, there_again


def test_a_recovery_is_waited_for_as_long_as_it_takes() -> None:
    """A server forgets a failure when `within` and a minute are over, and tells no recovery then."""
    silence = Silence("backup", frozenset({"pgproof.backup.completed"}), timedelta(hours=26), "Look.")
    for automation in (recovered_run(uuid4()), there_again(uuid4(), "main", silence, uuid4())):
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.after and automation.trigger.within >= timedelta(days=365)
