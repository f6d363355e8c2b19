"""Who PostgreSQL's programs run as: it refuses to run as root, so root hands them to another user."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class OsUser:
    """An operating system user other than ourselves. Supplementary groups are never used."""

    name: str
    uid: int
    gid: int
    home: Path = Path("/")


def service_user(name: str | None = None) -> OsUser | None:
    """Choose the user for PostgreSQL's programs; None means the user we already are.

    As root: `name`, or else `postgres`, or else `nobody`. Otherwise only our own name can be asked for.
    Raises PreconditionError where that cannot be had.
    """
    if os.geteuid() != 0:
        if name is None or name in _own_names():
            return None
        raise PreconditionError(
            "only root can run PostgreSQL as another user",
            hint=f"run this as root or as {name}, or leave the user out",
            user=name,
        )
    for candidate in [name] if name else ["postgres", "nobody"]:
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise PreconditionError(
                "PostgreSQL refuses to run as root", hint="name an ordinary user, such as postgres", user=name
            )
        return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    raise PreconditionError(
        "there is no user to run PostgreSQL as",
        hint=f"create one, for example `useradd --system {name or 'postgres'}`, or name an existing one",
        user=name or "postgres, nobody",
    )


def give_to(user: OsUser | None, path: Path) -> None:
    """Make `user` the owner of this one file or directory: not of what is in it, never through a link."""
    if user is not None:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def can_reach(user: OsUser | None, path: Path) -> bool:
    """Tell whether `user` may read and execute (or search) `path`, by the modes on the way to it."""
    path = path.resolve()
    if user is None:
        return os.access(path, os.R_OK | os.X_OK)
    try:
        return all(_allows(user, parent.stat(), 0o1) for parent in path.parents) and _allows(
            user, path.stat(), 0o5
        )
    except OSError:
        return False


def can_search(user: OsUser | None, path: Path) -> bool:
    """Tell whether `user` may search `path` and every directory above it, by their modes."""
    path = path.resolve()
    if user is None:
        return os.access(path, os.X_OK)
    try:
        return all(_allows(user, each.stat(), 0o1) for each in (path, *path.parents))
    except OSError:
        return False


def _allows(user: OsUser, status: os.stat_result, bits: int) -> bool:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == user.uid:
        mode >>= 6
    elif status.st_gid == user.gid:
        mode >>= 3
    return mode & bits == bits


def _own_names() -> set[str]:
    try:
        return {pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:  # a container may run under a number without a name
        return set()
