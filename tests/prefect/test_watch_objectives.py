"""The flow `watch-objectives`: one alarm and one recovery through a notification block, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from flows.support.telling import block_teller
from flows.watch_objectives import watch_objectives
from pgproof.errors import PreconditionError, TransientError
from tests.repository.places import new_repository
from tests.support.receiver import Receiver, receiver


def save_block(hook: Receiver) -> str:
    CustomWebhookNotificationBlock.model_validate(
        {"name": "ops", "url": f"{hook.url}token-that-is-secret", "json_data": {"title": "{{subject}}"}}
    ).save("ops", overwrite=True)
    return "custom-webhook/ops"


def test_what_is_broken_is_told_once_and_what_recovers_once(
    prefect_backend: None, work_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = new_repository(work_dir / "r", encryption=False)
    for name, value in {
        "BACKUP_DIR": str(config.backup_dir),
        "BACKUP_ENCRYPTION": "false",
        "BACKUP_STATE_DIR": str(tmp_path / "state"),
        "PGHOST": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    with receiver() as hook:
        parameters = {"server": "", "repository": "", "notification_block": save_block(hook)}
        for _ in range(2):
            state: Any = watch_objectives(**parameters, return_state=True)
            # A failed run would be told once more, by the automation for failed runs.
            assert (state.name, state.is_completed()) == ("ObjectiveBroken", True)
        assert [each["title"] for each in hook.received] == ["pgproof main: 1 broken (no-backup)"]
        artifact: Any = Artifact.get("objectives-main")
        assert "✗ no-backup" in artifact.data
        # The repository goes away: that is told, and nothing is said of what cannot be seen meanwhile.
        (work_dir / "r").rename(work_dir / "away")
        for _ in range(2):
            state = watch_objectives(**parameters, return_state=True)
            assert "the repository cannot be read" in state.message
        (work_dir / "away").rename(work_dir / "r")
        for _ in range(2):
            watch_objectives(**parameters, return_state=True)
        assert [each["title"] for each in hook.received][1:] == [
            "pgproof main: 1 broken (repository)",
            "pgproof main: recovered",
        ]
    state = watch_objectives(server="", repository="", return_state=True)
    assert state.is_failed() and state.name == "NobodyTold" and "name a notification_block" in state.message


def test_a_block_that_cannot_tell_is_named_and_its_address_is_not(prefect_backend: None) -> None:
    with receiver() as hook:
        slug = save_block(hook)
        hook.status = 500
        with pytest.raises(TransientError, match="not taken") as refused:
            block_teller(slug)("subject", "body")
        assert "token-that-is-secret" not in str(refused.value)
        assert refused.value.__suppress_context__
    Secret(value="x").save("not-a-notifier", overwrite=True)
    for wrong, words in (
        ("slack-webhook/none", "no notification block"),
        ("secret/not-a-notifier", "nobody"),
    ):
        with pytest.raises(PreconditionError, match=words):
            block_teller(wrong)
