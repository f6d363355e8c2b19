"""From measurements to the table and the targets: medians and ratios, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.contender import DELTA, FULL, INCREMENTAL, RESTORE, TENTH, VERIFY
from bench.limits import NAME as LIMIT
from bench.limits import STREAM, WRITE_CACHE, WRITE_STEPS, ZSTD_FRAMES, ZSTD_ONE, ZSTD_TWO
from bench.ours import NAME as OURS
from bench.ours import SUMMARIES
from bench.recording import machine_line
from bench.targets import Target, target_table

BACKREST = "pgbackrest"
_NAMES = {
    OURS: "**pgproof**",
    SUMMARIES: "**pgproof**, by WAL summaries",
    BACKREST: "pgBackRest",
    f"{BACKREST}, bundle": "pgBackRest, bundles",
    STREAM: "limit: the stream read to nowhere",
    ZSTD_TWO: "limit: `zstd -3 -T2` of the stream's bytes",
    ZSTD_ONE: "limit: `zstd -3`, one thread",
    ZSTD_FRAMES: "limit: `zstd -3` in frames of 512 KiB, one thread",
    WRITE_CACHE: "limit: the files written through the page cache, synced",
    WRITE_STEPS: "limit: the files written, flushed every 64 MB",
}
_TITLES = {
    FULL: "full backup",
    RESTORE: "restore",
    VERIFY: "verify (every stored byte read and checked)",
    INCREMENTAL: "incremental backup, one page in a hundred changed",
    TENTH: "restore of the tenth incremental",
    DELTA: "delta restore of it, one page in a hundred changed in the directory",
}


@dataclass(frozen=True)
class Row:
    """The medians of one operation of one contender; `spread` is the slowest round by the fastest."""

    name: str
    wall: float
    cpu: float
    server_cpu: float
    store_cpu: float
    memory_mb: float
    stored_mb: float
    objects: int
    changed_mb: float
    spread: float


Key = tuple[int, str, str, str]  # major, place, operation, name


def rows(measurements: Iterable[Mapping[str, Any]]) -> dict[Key, Row]:
    """The medians, in the order in which the contenders ran."""
    grouped: dict[Key, list[Mapping[str, Any]]] = {}
    for each in measurements:
        key = (each["major"], each["place"], each["operation"], each["name"])
        grouped.setdefault(key, []).append(each)
    return {key: _row(key[3], several) for key, several in grouped.items()}


def _row(name: str, several: list[Mapping[str, Any]]) -> Row:
    def middle(column: str) -> float:
        return float(median(each[column] for each in several))

    walls = [each["wall"] for each in several]
    return Row(
        name,
        middle("wall"),
        middle("cpu"),
        middle("server_cpu"),
        middle("store_cpu"),
        max(each["memory_mb"] for each in several),
        middle("stored_mb"),
        round(middle("objects")),
        median(each.get("changed_mb", 0.0) for each in several),
        max(walls) / min(walls),
    )


def targets(found: Mapping[Key, Row], cores: int, gigabytes: float) -> list[Target]:
    """Those for which everything needed was measured."""
    results = []

    def ratio(what: str, place: str, operation: str, column: str, limit: float) -> None:
        ours = found.get((15, place, operation, OURS))
        for peer, how in ((BACKREST, ""), (f"{BACKREST}, bundle", " with bundles")):
            its = found.get((15, place, operation, peer))
            if ours and its:
                value = getattr(ours, column) / getattr(its, column)
                results.append(Target(f"{what} by pgBackRest's{how}", value, limit))

    ratio("full backup, wall time", "directory", FULL, "wall", 0.8)
    ratio("full backup, bytes", "directory", FULL, "stored_mb", 1.05)
    ours = found.get((15, "directory", FULL, OURS))
    stream, zstd = (found.get((15, "", operation, LIMIT)) for operation in (STREAM, ZSTD_ONE))
    if ours and stream and zstd:
        floor = (stream.cpu + stream.server_cpu + zstd.cpu) / cores
        what = "full backup, wall time by (CPU of the stream + CPU of `zstd -3`) / cores"
        results.append(Target(what, ours.wall / floor, 1.3))
    ratio("restore, wall time", "directory", RESTORE, "wall", 0.7)
    ratio("S3: full backup, wall time", "S3", FULL, "wall", 0.8)
    ratio("S3: restore, wall time", "S3", RESTORE, "wall", 0.8)
    results += _of_incrementals(found)
    memory = [row.memory_mb for row in found.values() if row.name in (OURS, SUMMARIES)]
    if memory:
        results.append(Target("peak memory of any of our operations", max(memory), 200, " MB"))
    frames = found.get((15, "", ZSTD_FRAMES, LIMIT))
    if ours and stream and frames:
        # Frames of our size cost less than one long stream, so this is the stricter of the two.
        rest = (ours.cpu - stream.cpu - frames.cpu) / gigabytes
        results.append(Target("our CPU beyond receiving and compressing, a GB", rest, 0.5, " s"))
    return results


def _of_incrementals(found: Mapping[Key, Row]) -> list[Target]:
    results = []
    for (major, place, operation, name), row in found.items():
        if name not in (OURS, SUMMARIES) or operation not in (INCREMENTAL, TENTH):
            continue
        where = f"PostgreSQL {major}, {place}: "
        how = "summaries" if name == SUMMARIES else "compare"
        stream = found.get((major, "", STREAM, LIMIT))
        full = found.get((major, place, RESTORE, OURS))
        if operation == TENTH and full:
            what = f"{where}restore of the tenth incremental ({how}), wall time by the full's"
            results.append(Target(what, row.wall / full.wall, 1.1))
        if operation == INCREMENTAL and how == "compare" and place == "directory" and stream:
            what = f"{where}incremental (compare), wall time by the raw stream's"
            results.append(Target(what, row.wall / stream.wall, 1.25))
        if operation == INCREMENTAL and row.changed_mb:
            what = (
                f"{where}incremental ({how}), stored bytes by its changed pages' in one stream of `zstd -3`"
            )
            results.append(Target(what, row.stored_mb / row.changed_mb, 1.5))
        for peer, with_ in ((BACKREST, ""), (f"{BACKREST}, bundle", " with bundles")):
            its = found.get((15, place, INCREMENTAL, peer))
            if (operation, name) == (INCREMENTAL, SUMMARIES) and its:
                what = f"{where}incremental (summaries), wall time by pgBackRest's on 15{with_}"
                results.append(Target(what, row.wall / its.wall, 0.2))
    return results


def markdown(about: Mapping[str, Any], measurements: Sequence[Mapping[str, Any]]) -> str:
    found = rows(measurements)
    gigabytes = about["data_bytes"] / 1e9
    lines = [
        f"{gigabytes:.1f} GB in {about['data_files']:,} files; {machine_line(about)} Everything is synced to disk; "
        "nothing that is read back is in the page cache. pgproof and pgBackRest encrypt (AES-256) and compress "
        "(zstd 3, 2 cores).",
        "",
        "| | wall s | CPU s | server's CPU s | S3's CPU s | memory MB | stored MB | our wall / its | our bytes / its |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for major, place, operation in dict.fromkeys(key[:3] for key in found if key[1]):
        lines.append(f"| *PostgreSQL {major}, {place}: {_TITLES[operation]}* | | | | | | | | |")
        ours = found.get((major, place, operation, OURS))
        group = [row for key, row in found.items() if key[:3] == (major, place, operation)]
        lines += [_line(row.name, row, ours) for row in group]
        if operation == FULL and (stream := found.get((major, "", STREAM, LIMIT))):
            lines.append(_line(STREAM, stream, None))
    lines.append("| *limits, with the stream and the files of PostgreSQL 15* | | | | | | | | |")
    limits = {key[2]: row for key, row in found.items() if not key[1] and key[2] != STREAM}
    lines += [_line(operation, row, None) for operation, row in limits.items()]
    if not limits:
        lines.pop()
    return "\n".join([*lines, *target_table(targets(found, about["cores"], gigabytes))])


def _line(name: str, row: Row, ours: Row | None) -> str:
    def ratio(column: str) -> str:
        own, its = getattr(ours, column, 0), getattr(row, column)
        return f"{own / its:.2f}" if own and its and row.name not in (OURS, SUMMARIES) else ""

    cells = [
        _NAMES.get(name, f"`{name}`"),
        f"{row.wall:.2f}",
        f"{row.cpu:.2f}",
        f"{row.server_cpu:.2f}" if row.server_cpu else "",
        f"{row.store_cpu:.2f}" if row.store_cpu else "",
        f"{row.memory_mb:,.0f}",
        _megabytes(row.stored_mb),
        ratio("wall"),
        ratio("stored_mb"),
    ]
    return f"| {' | '.join(cells)} |"


def _megabytes(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
