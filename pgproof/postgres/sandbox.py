"""What keeps a scratch server from doing harm: namespaces, forced settings, no link that leads outside.

A restored cluster is somebody else's code and configuration. Its archive_command would write into the
production archive, its tablespace links and replayed CREATE TABLESPACE records lead to production's
directories, its extensions may open connections. Inside the sandbox only its own directories exist.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.control_file import ControlFile
from pgproof.model.server_log import last_lines
from pgproof.postgres.osuser import OsUser
from pgproof.postgres.programs import Programs, as_user, run

_ISOLATED = "own user, mount, network, pid, ipc and uts namespaces"
_SYSTEM_DIRS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = (
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
)
# Slots and replication origins of the source must fit, or the server refuses to start.
_ROOM_FOR_SLOTS = 512

# Overridable by the caller: chosen for a server that lives for minutes on files that can be had again.
_CONVENIENT = {
    "autovacuum": "off",
    "checkpoint_timeout": "15min",
    "fsync": "off",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "2GB",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How a server is started: inside namespaces if `bwrap` is set, else only as another user."""

    programs: Programs
    user: OsUser | None
    bwrap: str | None
    description: str

    @property
    def isolated(self) -> bool:
        return self.bwrap is not None

    def command(
        self,
        command: Sequence[str | Path],
        *,
        writable: Sequence[Path],
        readable: Sequence[Path] = (),
        mounted: Mapping[str, Path] = {},
        status_fd: int | None = None,
    ) -> list[str]:
        """`command` as it runs inside: it sees the system's programs, `readable`, and may change `writable`.

        `mounted` puts directories of ours at other paths, for a server that insists on one. The program is
        process 1 of its namespace; bwrap writes its real process id to `status_fd`, as JSON, and
        sees to it that both die with us.
        """
        if self.bwrap is None:
            return as_user(command, self.user)
        inside = [self.bwrap, *(f"--unshare-{kind}" for kind in ("user", "net", "pid", "ipc", "uts"))]
        inside += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1"]
        if status_fd is not None:
            inside += ["--json-status-fd", str(status_fd)]
        inside += ["--ro-bind", "/usr", "/usr"]
        for name in _SYSTEM_DIRS:
            path = Path(name)
            if path.is_symlink():
                inside += ["--symlink", str(path.readlink()), name]
            elif path.is_dir():
                inside += ["--ro-bind", name, name]
        for name in _SYSTEM_FILES:
            inside += ["--ro-bind-try", name, name]
        inside += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/"]
        binds = [("--ro-bind", path, str(path)) for path in (*_installation(self.programs), *readable)]
        binds += [("--bind", path, str(path)) for path in writable]
        binds += [("--bind", path, place) for place, path in mounted.items()]
        # What lies deeper is mounted later, so that nothing is hidden by its own parent.
        for option, path, place in sorted(binds, key=lambda bind: len(Path(bind[2]).parts)):
            inside += [option, str(path), place]
        # Killed before it has let its child go on, bwrap would leave that waiting for ever: it knows when to ask.
        return as_user([*inside, "--", *command], self.user, die_with_us=False)


def find_sandbox(programs: Programs, user: OsUser | None, *, wanted: bool = True) -> Sandbox:
    """The best sandbox this machine has for that user; it was tried with the server program itself."""
    if not wanted:
        return Sandbox(programs, user, None, "none: switched off")
    return _probe(programs, user)


@functools.cache
def _probe(programs: Programs, user: OsUser | None) -> Sandbox:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return Sandbox(programs, user, None, "none: install bubblewrap")
    sandbox = Sandbox(programs, user, bwrap, _ISOLATED)
    trial = sandbox.command([programs.path("postgres"), "--version"], writable=[])
    try:
        run(trial, user=None, timeout=60, what="trying bubblewrap")
    except EngineError as error:
        reason = last_lines(error.hint, 1) or error.message
        return Sandbox(programs, user, None, f"none: bubblewrap does not work here ({reason})")
    return sandbox


def _installation(programs: Programs) -> list[Path]:
    root = programs.bin_dir.parent
    if root.resolve().is_relative_to("/usr"):
        return []
    found = [root / name for name in ("bin", "lib", "lib64", "share")]
    # A wheel keeps the libraries its client programs need beside the package.
    found.append(root.parent.with_name(f"{root.parent.name}.libs"))
    return [path for path in found if path.is_dir()]


def server_settings(
    programs: Programs,
    control: ControlFile,
    *,
    private_dir: Path,
    preload: Sequence[str] = (),
    settings: Mapping[str, str] = {},
    recovery: Mapping[str, str] = {},
) -> dict[str, str]:
    """Every setting for the server's command line, which beats all configuration files.

    Raises PreconditionError if `settings` would change one that protects production.
    """
    forced = {
        "config_file": str(private_dir / "postgresql.conf"),
        "hba_file": str(private_dir / "pg_hba.conf"),
        "ident_file": str(private_dir / "pg_ident.conf"),
        "external_pid_file": "",
        "unix_socket_directories": str(private_dir),
        "unix_socket_group": "",
        "unix_socket_permissions": "0700",
        "listen_addresses": "",
        "port": "5432",
        "bonjour": "off",
        "ssl": "off",
        "cluster_name": "pgproof-scratch",
        # Nothing leaves: no archive, no senders, no workers that connect to others.
        "archive_mode": "off",
        "archive_command": "",
        "archive_library": "",
        "archive_cleanup_command": "",
        "recovery_end_command": "",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        "max_replication_slots": str(_ROOM_FOR_SLOTS),
        # No code but what the caller allows.
        "shared_preload_libraries": ",".join(preload),
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "dynamic_library_path": "$libdir",
        "jit": "off",
        # The server says what went wrong on stderr, in English.
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "warning",
        "log_statement": "none",
        "log_line_prefix": "%m [%p] ",
        "lc_messages": "C",
        "huge_pages": "off",
        "restart_after_crash": "off",
        # Connections are refused until recovery is over, and raised minima in the WAL do not stop it.
        "hot_standby": "off",
        "wal_level": control.wal_level,
        "wal_log_hints": _switch(control.wal_log_hints),
        # Off would make the server throw the commit times away.
        "track_commit_timestamp": _switch(control.track_commit_timestamp),
        **control.minima,
        "restore_command": "",
        **recovery,
    }
    if programs.major >= 17:
        forced |= {"event_triggers": "off", "summarize_wal": "off", "sync_replication_slots": "off"}
    if programs.major >= 18:
        forced |= {
            "idle_replication_slot_timeout": "0",
            "max_active_replication_origins": str(_ROOM_FOR_SLOTS),
        }
    clash = sorted(set(forced) & set(settings))
    if clash:
        raise PreconditionError(
            "a scratch server's protection cannot be changed", hint="leave these settings out", settings=clash
        )
    return {**control.wal_sizes, **_CONVENIENT, **settings, **forced}


def refuse_links_outside(data_dir: Path, allowed: Sequence[Path]) -> None:
    """Check every path the server would follow out of `data_dir`: tablespaces, their map, and pg_wal.

    Raises PreconditionError for one that does not lead into `allowed`; a restore must have remapped it.
    """
    links = [path for path in [data_dir / "pg_wal", *_children(data_dir / "pg_tblspc")] if path.is_symlink()]
    targets = {path: path.resolve() for path in links}
    tablespace_map = data_dir / "tablespace_map"
    if tablespace_map.is_file():
        for line in tablespace_map.read_bytes().split(b"\n"):
            oid, _, place = line.partition(b" ")
            if place:
                # Tablespaces inside the data directory are named by a relative path.
                targets[tablespace_map / os.fsdecode(oid)] = (data_dir / os.fsdecode(place)).resolve()
    inside = [path.resolve() for path in allowed]
    for link, target in targets.items():
        if not any(target.is_relative_to(path) for path in inside):
            raise PreconditionError(
                "the restored cluster points to a directory that is not part of the restore",
                hint="restore it with this tablespace mapped to a directory of its own",
                link=link,
                target=target,
            )


def _children(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _switch(value: bool) -> str:
    return "on" if value else "off"
