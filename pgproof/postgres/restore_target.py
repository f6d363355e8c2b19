"""What a restore refuses before it writes the first byte: targets in use, out of reach or too small."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.postgres.osuser import OsUser, can_search


def refuse_occupied(places: Iterable[Path]) -> None:
    """Every place is missing or an empty directory. Raises PreconditionError naming what is there."""
    for place in places:
        try:
            names = sorted(entry.name for entry in place.iterdir())
        except FileNotFoundError:
            if not os.access(nearest_existing(place), os.W_OK | os.X_OK):
                raise PreconditionError(
                    "the target cannot be created here",
                    hint=f"let yourself write in {nearest_existing(place)}, or choose another place",
                    path=place,
                ) from None
            continue
        except NotADirectoryError:
            raise PreconditionError(
                "the target is not a directory",
                hint="choose an empty or new directory; nothing was changed",
                path=place,
            ) from None
        except OSError as error:
            raise PreconditionError(
                "the target cannot be read",
                hint="check its owner and mode",
                path=place,
                reason=error.strerror,
            ) from error
        if "postmaster.pid" in names:
            raise PreconditionError(
                "a server uses this directory",
                hint="restore into another one, or stop it and move it away",
                path=place,
            )
        if [name for name in names if name != "lost+found"]:
            raise PreconditionError(
                "the target directory is not empty",
                hint="choose an empty or new directory; nothing was changed",
                path=place,
                found=", ".join(names[:3]),
            )


def refuse_unreachable(places: Iterable[Path], user: OsUser | None) -> None:
    """`user` can search every directory above the places, as its server must. Raises PreconditionError."""
    for place in places:
        if not can_search(user, nearest_existing(place)):
            raise PreconditionError(
                "the server's user cannot reach the target",
                hint=f"let {user.name if user else 'yourself'} search every directory above it (chmod o+x), "
                "choose another place, or leave the recovery to the server with --no-recover; "
                "nothing was written",
                path=place,
                user=user.name if user else None,
            )


def refuse_too_small(needed: dict[Path, int]) -> None:
    """Every file system has room for what goes there. Raises PreconditionError with the figures."""
    wanted: dict[int, int] = {}
    example: dict[int, Path] = {}
    for place, size in needed.items():
        existing = nearest_existing(place)
        device = existing.stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
        example.setdefault(device, existing)
    for device, size in wanted.items():
        status = os.statvfs(example[device])
        free = status.f_bavail * status.f_frsize
        if free < size:
            raise PreconditionError(
                "there is not enough room for the restore",
                hint="free space or choose another disk; nothing was written",
                path=example[device],
                needed_mb=size // 1_000_000,
                free_mb=free // 1_000_000,
            )


def nearest_existing(place: Path) -> Path:
    """The place itself, or the directory above it that exists."""
    return next(parent for parent in (place, *place.parents) if parent.exists())
