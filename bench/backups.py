"""Full and incremental backups, restores and verifications: who is compared, and on what."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import data, profiling
from bench.contender import INCREMENTALS, Contender, size_of
from bench.limits import Limits
from bench.ours import Ours
from bench.peers import NO_ARCHIVING, PgBackRest, PgBaseBackup, PgIncremental, wait_for_archiver
from bench.recording import Section
from bench.rounds import measurements
from tests.support.postgres import Cluster, Setting

_SETTINGS: dict[str, Setting] = {
    "max_wal_size": "16GB",
    "shared_buffers": "256MB",
    # Nothing but the contenders may work while they are measured.
    "autovacuum": False,
    "checkpoint_timeout": "1h",
    "archive_mode": True,
    "archive_command": NO_ARCHIVING,
}


def everyone() -> list[Contender]:
    backrest: list[Contender] = []
    if shutil.which("pgbackrest"):
        backrest = [
            PgBackRest("pgbackrest", "directory"),
            PgBackRest("pgbackrest, bundle", "directory", bundle=True),
            PgBackRest("pgbackrest", "S3"),
            PgBackRest("pgbackrest, bundle", "S3", bundle=True),
        ]
    zstd = ("--format=tar", "--compress=client-zstd:level=3,workers=2")
    return [
        Limits(15, everything=True),
        Ours(15, "directory"),
        *backrest[:2],
        PgBaseBackup("pg_basebackup", 15),
        PgBaseBackup("pg_basebackup tar", 15, ("--format=tar",)),
        Ours(15, "S3"),
        *backrest[2:],
        Limits(17, everything=False),
        Ours(17, "directory"),
        Ours(17, "directory", "summaries"),
        PgBaseBackup("pg_basebackup", 17),
        PgBaseBackup("pg_basebackup tar", 17, ("--format=tar",)),
        PgBaseBackup("pg_basebackup tar, zstd", 17, zstd),
        PgIncremental(17),
        Limits(18, everything=False),
        Ours(18, "directory"),
        Ours(18, "directory", "summaries"),
        PgIncremental(18),
    ]


def chosen(options: argparse.Namespace) -> list[Contender]:
    return [
        each
        for each in everyone()
        if each.name.startswith(tuple(options.only.split(",")))
        and options.major in (None, each.major)
        and (options.place in (None, each.place) or not each.place)
    ]


def run(options: argparse.Namespace, work: Path, section: Section) -> None:
    contenders = chosen(options)
    with sources(sorted({each.major for each in contenders}), options.gigabytes) as clusters:
        if options.profile:
            profiling.profile(clusters[contenders[0].major], work)
        else:
            record(contenders, clusters, options.rounds, work, section)


@contextmanager
def sources(
    majors: Sequence[int], gigabytes: float, small_tables: int = data.SMALL_TABLES
) -> Iterator[dict[int, Cluster]]:
    """The same data in a cluster of each version."""
    with ExitStack() as stack:
        clusters = {
            major: stack.enter_context(
                Cluster(major, settings=_SETTINGS | ({"summarize_wal": True} if major >= 17 else {}))
            )
            for major in majors
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda cluster: data.fill(cluster, gigabytes, small_tables), clusters.values()))
        for cluster in clusters.values():
            wait_for_archiver(cluster)
        yield clusters


def record(
    contenders: Sequence[Contender],
    clusters: dict[int, Cluster],
    rounds: int,
    work: Path,
    section: Section,
    incrementals: int = INCREMENTALS,
) -> None:
    bytes_, files = size_of(next(iter(clusters.values())).data_dir / "base")
    section.about.update(data_bytes=bytes_, data_files=files)
    for measured in measurements(contenders, clusters, rounds, work, incrementals):
        section.add(measured)
