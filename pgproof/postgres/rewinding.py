"""Run pg_rewind on a directory whose server is down: first its crash recovery, then the rewind itself."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg.conninfo

from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.model.server_log import last_lines
from pgproof.model.wal_commands import as_setting
from pgproof.postgres.connection import DEFAULTS
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.osuser import OsUser, give_to
from pgproof.postgres.programs import Programs, execute
from pgproof.postgres.replica_directory import read_control
from pgproof.postgres.standby import SECRETS

_CLEAN = ("shut down", "shut down in recovery")
# pg_rewind says this (with --progress) when all it does afterwards is writing.
_BEGAN_TO_WRITE = re.compile(r"need to copy \d+ MB")
_NO_NEED = "no rewind required"


@dataclass(frozen=True, slots=True)
class Rewound:
    """`rewound` is False where nothing had to be. With `failure` it did not come about; `changed` says whether the directory
    was written to."""

    rewound: bool = False
    failure: str = ""
    changed: bool = False


def end_well(data_dir: Path, programs: Programs, user: OsUser | None, job: Job) -> str:
    """Let the server's crash recovery run, in single-user mode, if it did not end well. What went wrong, or nothing.

    The directory is no standby any more afterwards.
    """
    with on_disk(data_dir):
        for name in ("standby.signal", "recovery.signal"):
            (data_dir / name).unlink(missing_ok=True)
        if read_control(data_dir).state in _CLEAN:
            return ""
        (data_dir / "postmaster.pid").unlink(missing_ok=True)
        config = data_dir.parent / "crash.conf"
        config.write_text("")
        give_to(user, config)
    own = data_dir / "postgresql.conf"
    settings = {
        "config_file": str(own if own.is_file() else config),
        "data_directory": str(data_dir),
        # Nothing of it may be wanted by crash recovery, and nothing of it may act outside.
        "archive_mode": "off",
        # The checkpoint at its end must leave the WAL that pg_rewind reads.
        "wal_keep_size": "1TB",
        "restore_command": "",
        "primary_conninfo": "",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    command: list[str | Path] = [programs.path("postgres"), "--single", "-D", data_dir]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    failpoint("rebuild.crash.recovery")
    done = execute([*command, "template1"], user=user, timeout=None, what="crash recovery", job=job)
    if done.status != 0 or read_control(data_dir).state not in _CLEAN:
        return f"its crash recovery failed: {last_lines(done.stderr) or 'the server said nothing'}"
    return ""


def rewind(
    data_dir: Path,
    source: PostgresConfig,
    programs: Programs,
    user: OsUser | None,
    job: Job,
    *,
    work: Path,
    restore_command: str,
) -> Rewound:
    """Make `data_dir` a copy of the source as of now, by what the two wrote since their ways parted.

    `restore_command` brings WAL that is missing in the directory, and is run in `work`; empty if there is none. Of the
    source's secrets it is given the password alone. Raises PreconditionError if there is no pg_rewind.
    """
    # Its own configuration may lie elsewhere, and postgresql.auto.conf would win over this file.
    config = work / "rewind.conf"
    config.write_text(f"restore_command = {as_setting(restore_command)}\n")
    give_to(user, config)
    command: list[str | Path] = [
        programs.path("pg_rewind"),
        f"--target-pgdata={data_dir}",
        f"--source-server={without_password(source)}",
        "--no-ensure-shutdown",
        "--progress",
    ]
    if restore_command:
        command += ["--restore-target-wal", f"--config-file={config}"]
    failpoint("rebuild.rewind")
    done = execute(
        command,
        user=user,
        env=environment_of(source, user),
        timeout=None,
        what="pg_rewind",
        job=job,
        cwd=work,
    )
    said = done.stderr + done.stdout
    if done.status != 0:
        reason = last_lines(_without_progress(said)) or f"pg_rewind ended with {done.status}"
        return Rewound(failure=reason, changed=_BEGAN_TO_WRITE.search(said) is not None)
    return Rewound(rewound=_NO_NEED not in said)


def without_password(config: PostgresConfig) -> str:
    """The way to a server as libpq's programs get it; its secrets are in `environment_of`."""
    known = {name: value for name, value in config.parameters().items() if name not in SECRETS}
    return psycopg.conninfo.make_conninfo("", **{"dbname": "postgres", **DEFAULTS, **known})


def environment_of(config: PostgresConfig, user: OsUser | None) -> dict[str, str]:
    """Where libpq finds the password: ours, or the file of the user who runs the program."""
    found = {"HOME": str(user.home) if user else os.environ.get("HOME", "/")}
    password = config.parameters().get("password")
    if password:
        found["PGPASSWORD"] = password
    elif "PGPASSFILE" in os.environ:
        found["PGPASSFILE"] = os.environ["PGPASSFILE"]
    return found


def _without_progress(text: str) -> str:
    lines = re.split(r"[\r\n]+", text)
    return "\n".join(line for line in lines if line and not re.search(r"\d+/\d+ kB \(\d+%\) copied", line))
