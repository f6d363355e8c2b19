"""The data that is backed up: the same rows on every server version, made by SQL without chance in it.

Text that compresses, bytes that do not, indexes, and thousands of small tables.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.postgres import Cluster

# For each gigabyte, indexes included; the small tables come on top of it.
_ORDERS, _VISITS, _DOCUMENTS = 1_900_000, 400_000, 35_000
SMALL_TABLES = 2_000

# Orders are text as people write it. Visits repeat themselves every 1.6 MB, which a compressor sees that looks
# farther back than one of our frames. Documents do not compress.
_LARGE = """
SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';
CREATE TABLE orders AS
  SELECT g AS id, g % 9973 AS customer, timestamptz '2026-01-01 00:00:00+00' - g * interval '1 second' AS at,
         'order ' || g || ' of customer ' || g % 9973 || ' for '
         || (array['books', 'shoes', 'garden chairs', 'coffee', 'a bicycle', 'two lamps'])
            [1 + abs(hashint8(g)::bigint) % 6] || ', '
         || (array['paid', 'open', 'returned', 'sent to the wrong address', 'cancelled by telephone'])
            [1 + abs(hashint8(g + 1)::bigint) % 5] || '; reference ' || md5(g::text)
         || repeat(' no further remarks', (abs(hashint8(g + 2)::bigint) % 6)::int) AS note
  FROM generate_series(1, {orders}) g;
CREATE INDEX ON orders (id);
CREATE INDEX ON orders (customer, at);
CREATE TABLE visits AS
  SELECT g AS id, repeat(md5((g % 5000)::text), 8) AS note FROM generate_series(1, {visits}) g;
CREATE TABLE documents (id int, body bytea);
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
INSERT INTO documents
  SELECT g, (SELECT decode(string_agg(md5(g || '.' || n), ''), 'hex') FROM generate_series(1, 500) n)
  FROM generate_series(1, {documents}) g;
"""
# Tables in batches: every one holds locks until its transaction ends.
_SMALL = """
DO $$ BEGIN FOR n IN 1..{tables} LOOP
  EXECUTE format('CREATE TABLE small_%s AS SELECT g AS id, md5(g::text)::uuid AS note FROM generate_series(1, 50) g', n);
  EXECUTE format('CREATE INDEX ON small_%s (id)', n);
  IF n % 200 = 0 THEN COMMIT; END IF;
END LOOP; END $$;
"""
_COUNTS = """
SELECT (SELECT count(*) FROM orders), (SELECT sum(length(note)) FROM orders), (SELECT sum(id) FROM visits),
       (SELECT sum(length(body)) FROM documents),
       (SELECT count(*) FROM pg_class WHERE relname LIKE 'small%'), (SELECT sum(id) FROM small_{last})
"""
# Not in a base backup, or the server's own business while it runs.
_PASSING = ("pg_internal.init", "pg_control", "PG_VERSION")


def fill(cluster: Cluster, gigabytes: float, small_tables: int = SMALL_TABLES) -> None:
    """Make the relations, and leave nothing for the server to do afterwards."""
    rows = {"orders": _ORDERS, "visits": _VISITS, "documents": _DOCUMENTS}
    cluster.psql(_LARGE.format_map({table: int(count * gigabytes) for table, count in rows.items()}))
    cluster.psql(_SMALL.format(tables=small_tables))
    cluster.psql("VACUUM orders, visits, documents")
    cluster.psql("ANALYZE")
    cluster.psql("CHECKPOINT")


def change_pages(cluster: Cluster) -> None:
    """Change one page in a hundred of each large table, at random and in place: a row of it is locked once."""
    for table in ("orders", "visits", "documents"):
        cluster.psql(
            f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE ctid = ANY (ARRAY("
            f"SELECT format('(%s,1)', floor(random() * pg_relation_size('{table}') / 8192)::int)::tid "
            f"FROM generate_series(1, greatest(1, pg_relation_size('{table}') / 819200)))) FOR UPDATE) changed"
        )


def counts(cluster: Cluster, database: str = "postgres") -> str:
    """What a restored cluster, or one of its databases, must answer as its source does."""
    last = cluster.psql(
        "SELECT max(substr(relname, 7)::int) FROM pg_class WHERE relname ~ '^small_[0-9]+$'", database
    )
    return cluster.psql(_COUNTS.format(last=last), database)


def relation_files(data_dir: Path) -> dict[str, int]:
    """Size by path of everything in the databases and the shared catalogs."""
    found = {}
    for folder in ("base", "global"):
        for path, _folders, names in os.walk(data_dir / folder):
            for name in names:
                if name not in _PASSING and not name.startswith("pgsql_tmp"):
                    full = Path(path) / name
                    found[str(full.relative_to(data_dir))] = full.stat().st_size
    return found
