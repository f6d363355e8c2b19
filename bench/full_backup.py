"""Time a full encrypted backup and its restore, with CPU seconds and peak memory.

    .venv/bin/python -m bench.full_backup [--gigabytes 2] [--major 18] [--profile]

The data is mixed: text that compresses, random bytes that do not, indexes, two thousand small tables. Beside
our figures stands the raw limit: the same stream read to nowhere.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.postgres.base_backup import BackupOptions, stream_base_backup
from pgproof.postgres.connection import connect_replication
from tests.support.postgres import Cluster

ROWS_PER_GIGABYTE = 1_250_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--major", type=int, default=18)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pgproof-bench-"))
    place.chmod(0o755)
    try:
        with Cluster(options.major, settings={"max_wal_size": "4GB"}) as cluster:
            fill(cluster, options.gigabytes)
            run(cluster, place, options.profile)
    finally:
        shutil.rmtree(place)


def fill(cluster: Cluster, gigabytes: float) -> None:
    rows = int(ROWS_PER_GIGABYTE * gigabytes)
    cluster.psql(
        f"""
        CREATE TABLE orders AS
          SELECT g AS id, g % 9973 AS customer, now() - g * interval '1 second' AS at,
                 repeat(md5((g % 5000)::text), 8) AS note
          FROM generate_series(1, {rows}) g;
        CREATE INDEX ON orders (id);
        CREATE INDEX ON orders (customer, at);
        CREATE TABLE documents (id int, body bytea);
        ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
        INSERT INTO documents
          SELECT g, decode(string_agg(md5(random()::text), ''), 'hex')
          FROM generate_series(1, {rows // 40}) g, generate_series(1, 500) GROUP BY g;
        DO $$ BEGIN FOR n IN 1..500 LOOP
          EXECUTE format('CREATE TABLE small_%s AS SELECT g, md5(g::text) FROM generate_series(1, 50) g', n);
        END LOOP; END $$;
        """
    )
    cluster.psql("CHECKPOINT")


def run(cluster: Cluster, place: Path, profile: bool) -> None:
    config = BackupConfig(backup_dir=str(place / "repository"), passphrase="bench")
    init_repository(config)
    with measured("stream read to nowhere", 0):
        size = read_to_nowhere(cluster)
    with measured("full backup, encrypted, zstd 3", size), profiled(profile):
        backup = take_backup(cluster.config(), config, BackupType.FULL, Job())
    print(f"    stored {backup.stored_bytes / 1e6:,.0f} MB of {backup.size_bytes / 1e6:,.0f} MB")
    with measured("verify --level frames", size), profiled(profile):
        verify_backup(config, backup.backup_id, VerifyLevel.FRAMES, Job())
    with measured("restore, without recovery", size), profiled(profile):
        restore_cluster(
            config, backup.backup_id, place / "out", tablespaces={}, recover=False, owner=None, job=Job()
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def read_to_nowhere(cluster: Cluster) -> int:
    with contextlib.closing(connect_replication(cluster.config())) as connection:
        events = stream_base_backup(connection.pgconn, BackupOptions("bench"), Job())
        return sum(len(event) for event in events if isinstance(event, memoryview))


@contextlib.contextmanager
def measured(name: str, size: int) -> Iterator[None]:
    os.sync()
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = f", {size / wall / 1e6:,.0f} MB/s, {cpu / (size / 1e9):.2f} CPU s a GB" if size else ""
    print(f"{name}: {wall:.2f} s, our CPU {cpu:.2f} s{rate}", flush=True)


@contextlib.contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
