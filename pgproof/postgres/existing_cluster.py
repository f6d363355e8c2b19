"""A data directory that holds an older state of a cluster, looked at before a delta restore overwrites it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pgproof.errors import DataError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.control_file import ControlFile, parse_control_file
from pgproof.model.delta_plan import MARKER, DeltaPlan, belongs_to_postgres, is_fixed_directory
from pgproof.model.filemap import DIRECTORY, Segment, printable
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.restore_plan import RestorePlan
from pgproof.model.source_files import CONTROL_FILE
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.scratch_files import exclusive, sync_directory

_LISTED = 1000


class _Kind(Enum):
    """OTHER is what must not be written through: a link, a special file, a file with a second name."""

    FILE = 0
    DIRECTORY = 1
    OTHER = 2


@dataclass(frozen=True, slots=True)
class ExistingCluster:
    """`places` are its data directory and those directories of its tablespaces that the restore uses again;
    `strays` the paths that go, directories behind what is in them; `sizes` the bytes in each place."""

    data_dir: Path
    places: dict[Path, int]
    strays: tuple[bytes, ...]
    plan: DeltaPlan

    def still_needed(self, needed: dict[Path, int]) -> dict[Path, int]:
        """The room that is needed beyond what the old files occupy."""
        return {place: max(0, size - self.places.get(place, 0)) for place, size in needed.items()}


def survey(plan: RestorePlan, manifest: Manifest, segments: Iterable[Segment], job: Job) -> ExistingCluster:
    """Whose directory it is, and what of it a restore would remove. Writes nothing.

    Raises PreconditionError unless it is a stopped server's directory of the very cluster of the backup.
    """
    data_dir = plan.data_dir
    with on_disk(data_dir):
        if not data_dir.is_dir():
            raise PreconditionError("there is nothing to overwrite", hint="leave --delta out", path=data_dir)
        control = _identity(data_dir, manifest)
        if (data_dir / "pg_wal").is_symlink():
            raise PreconditionError(
                "pg_wal of the existing cluster is a symbolic link, which a delta restore does not follow",
                hint="restore into an empty directory",
                path=data_dir,
            )
        with exclusive(data_dir, look_only=True):
            tablespaces = _used_again(plan, data_dir)
            links = {b"pg_tblspc/%d" % oid for oid in tablespaces}
            found: dict[bytes, _Kind] = {}
            places = {data_dir: _walk(data_dir, b"", links, found, job)}
            for oid, place in tablespaces.items():
                places[place] = _walk(place, b"pg_tblspc/%d/" % oid, set(), found, job)
    strays, versions = [], set()
    for segment in segments:
        job.checkpoint()
        for entry in segment.files:
            wanted = _Kind.DIRECTORY if entry.kind == DIRECTORY else _Kind.FILE
            kind = found.pop(entry.path, wanted)
            if kind is not wanted:
                strays.append(entry.path)
            if wanted is _Kind.DIRECTORY and entry.path.count(b"/") == 2:
                versions.add(entry.path)
    ours, kept = [], []
    for path in sorted(found):
        inside = next((link for link in links if path.startswith(link + b"/")), None)
        # Another version of PostgreSQL may keep a directory of its own in the same tablespace.
        in_version = inside is not None and b"/".join(path.split(b"/")[:3]) in versions
        if (belongs_to_postgres(path) and not is_fixed_directory(path)) if inside is None else in_version:
            ours.append(path)
        elif path != MARKER and not is_fixed_directory(path):
            kept.append(path)
    strays += ours
    # Whatever lies in a directory goes before it.
    strays.sort(key=lambda path: (-path.count(b"/"), path))
    return ExistingCluster(
        data_dir,
        places,
        tuple(strays),
        DeltaPlan(
            state=control.state if control else None,
            timeline=control.timeline if control else None,
            checkpoint_lsn=control.checkpoint_lsn if control else None,
            removed=tuple(printable(path) for path in sorted(strays)[:_LISTED]),
            removed_count=len(strays),
            kept=tuple(printable(path) for path in kept[:_LISTED]),
            kept_count=len(kept),
        ),
    )


def clear_for_delta(existing: ExistingCluster, manifest: Manifest, tablespaces: dict[int, Path]) -> None:
    """Make the directory one that PostgreSQL does not start, then remove what does not belong to the backup.

    Only what the plan has shown is removed. Raises ConflictError if a server has been started meanwhile.
    """
    root = existing.data_dir
    with on_disk(root), exclusive(root):
        marker = root / os.fsdecode(MARKER)
        if not marker.exists():
            with marker.open("x") as file:
                file.write(f"{manifest.system_identifier}\n")
                file.flush()
                os.fsync(file.fileno())
            sync_directory(root)
        failpoint("delta.marked")
        control = root / os.fsdecode(CONTROL_FILE)
        control.unlink(missing_ok=True)
        failpoint("delta.unlinked")
        # Before the first write: after a crash of this machine there must be no way back to half a cluster.
        if control.parent.is_dir():
            sync_directory(control.parent)
        failpoint("delta.forbidden")
        for path in existing.strays:
            _remove(_real(root, path, tablespaces))
            failpoint("delta.removed")


def finish_delta(data_dir: Path) -> None:
    """The directory is whole again."""
    with on_disk(data_dir):
        (data_dir / os.fsdecode(MARKER)).unlink(missing_ok=True)
        sync_directory(data_dir)


def _identity(data_dir: Path, manifest: Manifest) -> ControlFile | None:
    """The control file of the old cluster; None where only the marker of an earlier delta restore is left."""
    path, marker = data_dir / os.fsdecode(CONTROL_FILE), data_dir / os.fsdecode(MARKER)
    control: ControlFile | None = None
    try:
        control = parse_control_file(path.read_bytes())
        identifier = str(control.system_identifier)
    except FileNotFoundError:
        if not marker.is_file():
            raise PreconditionError(
                "the directory does not say whose cluster it is: it has no pg_control",
                hint="restore into an empty directory",
                path=data_dir,
            ) from None
        identifier = marker.read_text(errors="replace").strip()
    except DataError as error:
        raise PreconditionError(
            "the directory does not say whose cluster it is: its pg_control is damaged",
            hint="restore into an empty directory",
            path=data_dir,
            reason=error.message,
        ) from error
    if identifier != manifest.system_identifier:
        raise PreconditionError(
            "the directory holds another cluster; nothing was changed",
            hint="look at --data-dir again, or restore into an empty directory",
            path=data_dir,
            found=identifier[:40],
            wanted=manifest.system_identifier,
        )
    return control


def _used_again(plan: RestorePlan, data_dir: Path) -> dict[int, Path]:
    """The tablespaces that lie where the restore puts them."""
    again = {}
    for oid, place in plan.tablespaces.items():
        link = data_dir / "pg_tblspc" / str(oid)
        if link.is_symlink() and place.is_dir() and link.resolve() == place.resolve():
            again[oid] = place
    return again


def _walk(root: Path, prefix: bytes, links: set[bytes], found: dict[bytes, _Kind], job: Job) -> int:
    """Put every path below `root` into `found`; return the bytes that the files occupy.

    `links` lead to tablespaces, which are directories in a backup.
    """
    top = os.fsencode(root)
    total, waiting = 0, [top]
    while waiting:
        job.checkpoint()
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = prefix + entry.path[len(top) + 1 :]
                status = entry.stat(follow_symlinks=False)
                kind = _Kind.OTHER
                if stat.S_ISDIR(status.st_mode):
                    kind = _Kind.DIRECTORY
                    waiting.append(entry.path)
                elif path in links:
                    kind = _Kind.DIRECTORY
                elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    kind = _Kind.FILE
                    total += status.st_blocks * 512
                found[path] = kind
    return total


def _real(root: Path, path: bytes, tablespaces: dict[int, Path]) -> Path:
    folder, _slash, rest = path.partition(b"/")
    oid, slash, inner = rest.partition(b"/")
    if folder == b"pg_tblspc" and slash and oid.isdigit() and int(oid) in tablespaces:
        return tablespaces[int(oid)] / os.fsdecode(inner)
    return root / os.fsdecode(path)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
