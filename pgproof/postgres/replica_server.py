"""Start and stop the server of a replica: by pg_ctl, or by commands that the operator names, such as systemctl."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.model.rebuild_evidence import Primary
from pgproof.model.server_log import last_lines
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs, execute, run
from pgproof.postgres.replica_directory import is_running

# Beside the server's own log: what it says before it has one, and all of it if it has none.
LOG = "pgproof-start.log"
_STOP_SECONDS = 300.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ReplicaServer:
    """The server of a data directory; `start_command` and `stop_command` are lines for the shell, run as who we are."""

    data_dir: Path
    programs: Programs
    user: OsUser | None
    start_command: str | None = None
    stop_command: str | None = None

    @property
    def running(self) -> bool:
        return is_running(self.data_dir)

    def stop(self, job: Job, *, keep_wal: bool = False) -> None:
        """End it, and wait until no process works on the files. Raises PreconditionError if it does not end.

        With `keep_wal` it ends as in a crash, if pg_ctl ends it: its last checkpoint would remove WAL.
        """
        failpoint("rebuild.stop")
        if self.stop_command:
            _shell(self.stop_command, "the stop command", job)
        else:
            mode = "immediate" if keep_wal else "fast"
            pg_ctl = [self.programs.path("pg_ctl"), "stop", "-D", self.data_dir, "-m", mode, "-t", "240"]
            run(
                [*map(str, pg_ctl)],
                user=self.user,
                timeout=_STOP_SECONDS,
                what="stopping the server",
                job=job,
            )
        deadline = time.monotonic() + _STOP_SECONDS
        while self.running:
            job.checkpoint()
            if time.monotonic() > deadline:
                raise PreconditionError(
                    "the server still runs after it was stopped",
                    hint="see that nothing starts it again (Restart= of a systemd unit), then run this again",
                    path=self.data_dir,
                )
            time.sleep(_LOOK_SECONDS)

    def start(self, job: Job) -> None:
        """Start it; whether it then follows is for the primary to say."""
        failpoint("rebuild.start")
        if self.start_command:
            _shell(self.start_command, "the start command", job)
            return
        log = self.data_dir / LOG
        pg_ctl = [self.programs.path("pg_ctl"), "start", "-D", self.data_dir, "-l", log, "-W"]
        home = {"HOME": str(self.user.home) if self.user else os.environ.get("HOME", "/")}
        run([*map(str, pg_ctl)], user=self.user, env=home, timeout=60, what="starting the server", job=job)

    def require_alive(self, started: float) -> None:
        """Raises TransientError, with what it said last, if it has ended; just after its start it may not be there yet."""
        if self.running or time.monotonic() - started < 10:
            return
        log, said = self.data_dir / LOG, ""
        if log.is_file():
            said = last_lines(log.read_text(errors="replace")[-20_000:])
        raise TransientError(
            "the replica's server ended",
            hint=said or "see its log; run this again when the reason is gone",
            path=self.data_dir,
        )


def _shell(command: str, what: str, job: Job) -> None:
    done = execute(["/bin/sh", "-c", command], user=None, timeout=_STOP_SECONDS, what=what, job=job)
    if done.status != 0:
        raise PreconditionError(
            f"{what} failed",
            hint=last_lines(done.stderr.strip() or done.stdout.strip()) or "it said nothing; run it by hand",
            status=done.status,
        )


def reaches_primary(
    conninfo: str, primary: Primary, programs: Programs, user: OsUser | None, job: Job
) -> None:
    """The user who runs the replica gets a replication connection to `primary` by this primary_conninfo, which holds no password.

    Raises PreconditionError, with the server's words, if not: better now than when the old files are gone.
    """
    asked = ["-c", "IDENTIFY_SYSTEM", "-c", "SHOW in_hot_standby"]
    command = [programs.path("psql"), "-XAtw", "-d", f"{conninfo} replication=true", *asked]
    home = str(user.home) if user else os.environ.get("HOME", "/")
    done = execute(
        [*map(str, command)],
        user=user,
        env={"HOME": home, "PGCONNECT_TIMEOUT": "10"},
        timeout=60,
        what="asking the primary as the replica will",
        job=job,
    )
    if done.status != 0:
        who = user.name if user else "the user who runs it"
        raise PreconditionError(
            "the replica would not reach its primary",
            hint=f"a password belongs into ~/.pgpass of {who}; or correct --primary, or pg_hba.conf of the primary",
            primary=conninfo,
            reason=last_lines(done.stderr) or f"psql ended with {done.status}",
        )
    wanted = f"{primary.state.system_identifier}|{primary.state.timeline}|off"
    system, _, standby = done.stdout.strip().partition("\n")
    found = "|".join([*system.split("|")[:2], standby])
    if found != wanted:
        raise PreconditionError(
            "the replica would follow another server than the primary",
            hint="correct --primary",
            primary=conninfo,
            wanted=f"cluster, timeline, in recovery: {wanted}",
            found=found,
        )
