"""Look how a cluster stands, and tell what is newly broken and what has recovered, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgproof.actions.opening import open_repository
from pgproof.actions.standing import measure
from pgproof.errors import EngineError
from pgproof.model.alarms import Message, Record, what_to_tell
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.objectives import Broken, Standing, broken_objectives, cannot_open
from pgproof.repository.alarm_log import AlarmLog, LocalLog, RepositoryLog, folder_for

# Takes a subject and a body; raises an EngineError if nobody was told.
Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Watched:
    """`standing` is None, and `error` says why, where the repository could not be read. `told` are the messages sent."""

    standing: Standing | None
    error: EngineError | None
    broken: tuple[Broken, ...]
    told: tuple[Message, ...] = ()


def watch(
    postgres: PostgresConfig, config: BackupConfig, tell: Tell | None, state: Path | None = None
) -> Watched:
    """Without `tell` it is only looked. Raises what `tell` does: then it is told at the next look.

    `state` is the directory for what the repository cannot remember.
    """
    state = state or state_directory(os.environ)
    try:
        standing, error = measure(postgres, config), None
    except EngineError as problem:
        standing, error = None, problem
    if standing is None:
        broken: tuple[Broken, ...] = (cannot_open(error.message, error.hint),) if error else ()
    else:
        broken = broken_objectives(standing, config.objectives)
    if tell is None:
        return Watched(standing, error, broken)
    place = config.repository_url or config.backup_dir or config.s3_bucket or ""
    told = []
    reach = folder_for(state, place, config.cluster, "reach")
    # Where it was never out of reach nothing needs to be remembered here, and the state directory need not exist.
    if standing is None or reach.exists():
        told.append(announce(LocalLog(reach), config.cluster, broken if standing is None else (), tell))
    if standing is not None:
        told.append(_announce_broken(config, folder_for(state, place, config.cluster, "all"), broken, tell))
    return Watched(standing, error, broken, tuple(each for each in told if each is not None))


def _announce_broken(
    config: BackupConfig, local: Path, broken: Sequence[Broken], tell: Tell
) -> Message | None:
    """By the repository's records, or those of this machine where the repository may only be read."""
    telling = False

    def tell_now(subject: str, body: str) -> None:
        nonlocal telling
        telling = True
        tell(subject, body)

    try:
        message = announce(RepositoryLog(open_repository(config)), config.cluster, broken, tell_now)
    except EngineError:
        if telling:
            raise
    else:
        # Without anything to write it is not known whether it may: an alarm that is known here has recovered, too.
        if message is not None or broken or not local.exists():
            return message
    return announce(LocalLog(local), config.cluster, broken, tell)


def announce(log: AlarmLog, cluster: str, broken: Sequence[Broken], tell: Tell) -> Message | None:
    """Tell what `log` does not know yet; the message that was sent. Raises what `tell` does."""
    now = datetime.now(UTC)
    number, record = log.newest()
    message = what_to_tell(cluster, record, broken, now)
    if message is None:
        return None
    before = record.open if record is not None else {}
    if not log.create(number + 1, Record(now, done=False, open=before)):
        return None  # another watcher is telling it
    after = before
    try:
        tell(message.subject, message.body)
        after = message.open
    finally:
        # If somebody has taken this number, this claim was void by then, and what counts is theirs.
        log.create(number + 2, Record(datetime.now(UTC), done=True, open=after))
    return message


def state_directory(environ: Mapping[str, str]) -> Path:
    # The second is systemd's StateDirectory=: a hardened unit may write nowhere else.
    if given := environ.get("BACKUP_STATE_DIR") or environ.get("STATE_DIRECTORY"):
        return Path(given)
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/var/lib") / ".local" / "state"
    return Path(base) / "pgproof"
