"""Measure us and others: `python -m bench [--gigabytes 2] [--rounds 3] [--only NAME,…] [--results FILE]`.

Makes the same data on PostgreSQL 15 and 17, runs the contenders in turn, prints one table and stores it with
every measurement: bench/results/bench.json, and bench/results/bench.md for the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import data, profiling, table
from bench.contender import Contender, size_of
from bench.limits import Limits
from bench.ours import Ours
from bench.peers import NO_ARCHIVING, PgBackRest, PgBaseBackup, wait_for_archiver
from bench.rounds import measurements
from tests.support.postgres import Cluster, Setting

RESULTS = Path(__file__).parent / "results" / "bench.json"
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
        PgBaseBackup("pg_basebackup", 17),
        PgBaseBackup("pg_basebackup tar", 17, ("--format=tar",)),
        PgBaseBackup("pg_basebackup tar, zstd", 17, zstd),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the cluster (2)")
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians (3)")
    parser.add_argument(
        "--only", default="", metavar="NAME,…", help="contenders whose names begin so, such as pgproof"
    )
    parser.add_argument("--major", type=int, help="this PostgreSQL version only")
    parser.add_argument("--place", choices=["directory", "S3"], help="this place only, and the limits")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument(
        "--profile", action="store_true", help="our operations under cProfile, and nothing else"
    )
    options = parser.parse_args()
    contenders = [
        each
        for each in everyone()
        if each.name.startswith(tuple(options.only.split(",")))
        and options.major in (None, each.major)
        and (options.place in (None, each.place) or not each.place)
    ]
    if not contenders:
        parser.error("nobody of that name")
    work = Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/tmp"))
    work.chmod(0o755)
    try:
        with sources(sorted({each.major for each in contenders}), options.gigabytes) as clusters:
            if options.profile:
                profiling.profile(clusters[contenders[0].major], work)
                return
            results = run(contenders, clusters, options.rounds, work, options.results)
    finally:
        shutil.rmtree(work)
    text = table.markdown(results)
    options.results.with_suffix(".md").write_text(text)
    print(text)


@contextmanager
def sources(
    majors: Sequence[int], gigabytes: float, small_tables: int = data.SMALL_TABLES
) -> Iterator[dict[int, Cluster]]:
    """The same data in a cluster of each version."""
    with ExitStack() as stack:
        clusters = {major: stack.enter_context(Cluster(major, settings=_SETTINGS)) for major in majors}
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda cluster: data.fill(cluster, gigabytes, small_tables), clusters.values()))
        for cluster in clusters.values():
            wait_for_archiver(cluster)
        yield clusters


def run(
    contenders: Sequence[Contender], clusters: dict[int, Cluster], rounds: int, work: Path, file: Path
) -> dict[str, Any]:
    """Measure, print every measurement, and store all of them after each."""
    results: dict[str, Any] = {"about": about(clusters, rounds), "measurements": []}
    file.parent.mkdir(parents=True, exist_ok=True)
    for measured in measurements(contenders, clusters, rounds, work):
        results["measurements"].append(measured.as_json())
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(
            f"round {measured.round + 1}: PostgreSQL {measured.major} {measured.name} {measured.place}"
            f" {measured.operation}: {measured.wall:.2f} s, CPU {measured.cpu:.2f} s, server"
            f" {measured.server_cpu:.2f} s, store {measured.store_cpu:.2f} s, {measured.memory_mb:.0f} MB memory,"
            f" {measured.stored_mb:,.0f} MB stored",
            flush=True,
        )
    return results


def about(clusters: dict[int, Cluster], rounds: int) -> dict[str, Any]:
    """The machine, the programs and the data, so that figures can be judged."""
    bytes_, files = size_of(next(iter(clusters.values())).data_dir / "base")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "data_bytes": bytes_,
        "data_files": files,
        "programs": sorted(
            {_version([str(each.bin / "postgres"), "--version"]) for each in clusters.values()}
        )
        + ([_version(["pgbackrest", "version"])] if shutil.which("pgbackrest") else []),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _version(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
