"""A server on restored files that can never touch production, for as long as a `with` block lasts.

The server has its own configuration, sees only the directories it was given (see `sandbox`), listens on a
socket in a private directory, and dies with the thread that started it. What it leaves behind is the data
directory, shut down.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.control_file import ControlFile, parse_control_file
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.server_log import failed_server, missing_tablespace, replay_position
from pgproof.model.source_files import CONTROL_FILE
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.new_tablespaces import Handover, NewTablespaces, failure, guard, refuse_unusable
from pgproof.postgres.osuser import OsUser, can_reach, give_to
from pgproof.postgres.postmaster import Launcher, Postmaster
from pgproof.postgres.programs import Programs
from pgproof.postgres.sandbox import find_sandbox, refuse_links_outside, server_settings
from pgproof.postgres.scratch_client import ScratchServer, UnknownSuperuser
from pgproof.postgres.scratch_files import exclusive, own_configuration, private_dir

__all__ = ["Handover", "Recovery", "ScratchServer", "scratch_server"]

_POLL = 0.05
_STOP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the server gets its WAL and where it stops; it then promotes itself.

    `restore_command` is PostgreSQL's (with %f and %p); it runs inside the sandbox, as the server's user, so
    whatever it reads must be named in `reads`. `target` holds `recovery_target_…` settings, at most one
    of them a position; without any, recovery goes to the end of the WAL on `target_timeline`.
    """

    restore_command: str
    target_timeline: int
    target: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()

    def settings(self) -> dict[str, str]:
        foreign = sorted(name for name in self.target if not name.startswith("recovery_target"))
        if foreign:
            raise PreconditionError(
                "not a recovery target", hint="name recovery_target_… settings only", settings=foreign
            )
        return {
            **self.target,
            "restore_command": self.restore_command,
            "recovery_target_timeline": str(self.target_timeline),
            "recovery_target_action": "promote",
        }


@contextlib.contextmanager
def scratch_server(
    programs: Programs,
    data_dir: Path,
    *,
    user: OsUser | None,
    control: ControlFile,
    tablespaces: Sequence[Path] = (),
    recovery: Recovery | None = None,
    settings: Mapping[str, str] = {},
    sandboxed: bool = True,
    preload: Sequence[str] = (),
    handover: Handover | None = None,
    replaying: tuple[Lsn, Lsn] | None = None,
    superuser: str = "postgres",
    job: Job,
    timeout: float,
) -> Iterator[ScratchServer]:
    """Start a server on `data_dir`, which `user` owns, and yield it once it takes connections.

    `control` is the pg_control of these files; `tablespaces` are the directories outside `data_dir` that it
    may use. `recovery` replays WAL first. `settings` may not loosen the isolation; `fsync` is off unless
    given. postgresql.auto.conf and tablespaces that the WAL creates are thrown away, unless there is a
    `handover`: then these are kept and linked, and the caller has called `forbid_start`. `replaying` is the
    range of the WAL to be replayed, for reports of progress. If `superuser` may not log in, another is found.

    Raises PreconditionError where this machine cannot check these files or recovery target, TransientError
    when WAL could not be fetched or `timeout` seconds have passed, DataError when the server gives up on the
    files, ConflictError when a server uses them, Cancelled when `job` is stopped.
    """
    data_dir = data_dir.resolve()
    tablespaces = [path.resolve() for path in tablespaces]
    _check_access(programs, user, [data_dir, *tablespaces])
    sandbox = find_sandbox(programs, user, wanted=sandboxed)
    refuse_links_outside(data_dir, [data_dir, *tablespaces])
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        with on_disk(data_dir):
            stack.enter_context(exclusive(data_dir))
            private = stack.enter_context(private_dir(user))
            log = stack.enter_context((private / "log").open("xb+", buffering=0)).fileno()
            failpoint("server.private")
            own_configuration(data_dir, private, user, handed_over=handover is not None)
            failpoint("server.configured")
        server = ScratchServer(programs, data_dir, private, log, sandbox, superuser, job)
        recovery_settings = recovery.settings() if recovery else {}
        if not sandbox.isolated:
            command = recovery.restore_command if recovery else None
            recovery_settings |= guard(programs, user, data_dir, private, command)
        chosen = server_settings(
            programs,
            control,
            private_dir=private,
            preload=preload,
            settings=settings,
            recovery=recovery_settings,
        )
        if recovery:
            signal_file = data_dir / "recovery.signal"
            with on_disk(signal_file):
                signal_file.touch(mode=0o600)
                give_to(user, signal_file)
            stack.callback(_remove, signal_file)
        places = NewTablespaces(data_dir, user, handover)
        stack.callback(places.discard)
        launcher = Launcher(
            sandbox=sandbox,
            arguments=[f"--{name}={value}" for name, value in sorted(chosen.items())],
            data_dir=data_dir,
            writable=[data_dir, private, *tablespaces],
            readable=recovery.reads if recovery else (),
            mounted=places.made,
            log=log,
        )
        process = _start(launcher, server, places, replaying, job, deadline, timeout)
        try:
            server.end_of_recovery_lsn = server.learn_end_of_recovery(control)
            server.new_tablespaces = dict(places.made)
            failpoint("server.open")
            yield server
            failpoint("server.closing")
        except BaseException:
            process.stop(10)
            raise
        if not process.stop(_STOP_SECONDS):
            raise TransientError(
                "the server did not shut down in time", hint="try again", seconds=_STOP_SECONDS
            )
        failpoint("server.stopped")
        if handover:
            places.link()
            refuse_links_outside(data_dir, [data_dir, *tablespaces, *places.made.values()])


def _start(
    launcher: Launcher,
    server: ScratchServer,
    places: NewTablespaces,
    replaying: tuple[Lsn, Lsn] | None,
    job: Job,
    deadline: float,
    timeout: float,
) -> Postmaster:
    """Start until connections are taken: again for each tablespace to be created, for limits that the source raised
    after the backup, and to learn a role."""
    job.report("starting the server")
    while True:
        process = launcher.start()
        try:
            _wait_until_open(process, server, replaying, job, deadline, timeout)
            return process
        except _Ended:
            process.stop(1)
            log = server.log()
            missing = missing_tablespace(log)
            if launcher.sandbox.isolated and missing is not None and places.add(*missing):
                continue
            raised = _raised_limits(launcher)
            if not raised:
                raise failure(log.decode(errors="replace")) from None
            server.raised_limits |= raised
            # The last one of several counts.
            more = [f"--{name}={value}" for name, value in raised.items()]
            launcher = replace(launcher, arguments=[*launcher.arguments, *more])
        except UnknownSuperuser:
            process.stop(_STOP_SECONDS)
            refused, server.superuser = server.superuser, launcher.ask_for_superuser()
            if server.superuser == refused:
                raise failed_server(server.log_tail()) from None
        except BaseException:
            process.stop(1)
            raise


def _raised_limits(launcher: Launcher) -> dict[str, str]:
    """Limits that are higher than the server was started with. The source's new ones are in pg_control as soon as the
    record of them was replayed, and so before anything that needs them."""
    with on_disk(launcher.data_dir):
        try:
            control = parse_control_file((launcher.data_dir / CONTROL_FILE.decode()).read_bytes())
        except DataError:
            return {}  # why the server ended says more
    known = dict(argument.removeprefix("--").split("=", 1) for argument in launcher.arguments)
    return {name: value for name, value in control.minima.items() if int(value) > int(known[name])}


def _remove(path: Path) -> None:
    with on_disk(path):
        path.unlink(missing_ok=True)


class _Ended(Exception):
    """The server's process is gone."""


def _wait_until_open(
    process: Postmaster,
    server: ScratchServer,
    replaying: tuple[Lsn, Lsn] | None,
    job: Job,
    deadline: float,
    timeout: float,
) -> None:
    while True:
        failpoint("server.starting")
        job.checkpoint()
        if process.ended():
            raise _Ended
        if replaying is not None:
            start, end = replaying
            position = replay_position(server.log_tail(50))
            job.report("recovering", max(0, (position or start) - start), end - start)
        if server.try_to_open():
            return
        if time.monotonic() > deadline:
            raise TransientError(
                "the server did not open in time",
                hint=f"allow more time; the server said last:\n{server.log_tail(5)}",
                seconds=timeout,
            )
        time.sleep(_POLL)


def _check_access(programs: Programs, user: OsUser | None, directories: Sequence[Path]) -> None:
    if not can_reach(user, programs.path("postgres")):
        raise PreconditionError(
            "the server's user cannot execute the programs",
            hint="let it search every directory above them (chmod o+x), or install PostgreSQL elsewhere",
            bin_dir=programs.bin_dir,
            user=user.name if user else "",
        )
    for directory in directories:
        refuse_unusable(user, directory)
