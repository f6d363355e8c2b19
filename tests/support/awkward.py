"""A cluster with everything that trips a backup tool: names, sizes, numbers and kinds of objects."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from tests.support import machine
from tests.support.postgres import Cluster

DBNAME = "awkward"
EMPTY_DATABASE = "nothing in here"
SMALL_TABLES = 2000
_TABLESPACES = {"spaced ts": "first space ä ß", "Größe'\"ts": "zweiter Ort – 表空間"}
_DATABASES = (
    'say "hello"',
    "it's",
    "Größe und 名前",
    "UPPER lower",
    "100% $HOME `id`; --",
    "back\\slash",
    "host=elsewhere dbname=other",
)

_OBJECTS = """
CREATE TABLE people (id int PRIMARY KEY, name text, born date, doomed int);
INSERT INTO people SELECT g, 'name ' || g, '2000-01-01'::date + g, g FROM generate_series(1, 5000) g;
ALTER TABLE people DROP doomed;
DELETE FROM people WHERE id % 7 = 0;
CREATE INDEX ON people (name);
CREATE TABLE documents (id int PRIMARY KEY, owner int, body text);
INSERT INTO documents
    SELECT g, g, (SELECT string_agg(md5(g || '/' || i), '') FROM generate_series(1, 500) i)
    FROM generate_series(1, 50) g;
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE parted_new PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT g, '2019-06-01'::date + g FROM generate_series(1, 500) g;
CREATE MATERIALIZED VIEW elders AS SELECT * FROM people WHERE id < 100;
CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO generated SELECT generate_series(1, 10);
CREATE TABLE empty ();
CREATE SCHEMA "sch""ema é";
CREATE TABLE "sch""ema é"."ta.ble 'x'" ("co""l" text);
INSERT INTO "sch""ema é"."ta.ble 'x'" VALUES (E'tab\\tnew\\nline\\\\'), (NULL), (''), ('\u00e9\U0001f418');
CREATE UNLOGGED TABLE scratch (id bigserial PRIMARY KEY, pad text);
INSERT INTO scratch (pad) SELECT repeat('x', 200) FROM generate_series(1, 1000);
"""
_LARGE_OBJECTS = """
SELECT lo_from_bytea(0, ''), lo_from_bytea(0, 'small'),
    lo_from_bytea(0, (SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 10000) i))
"""
_MANY = f"""
DO $$ BEGIN
    FOR n IN 1..{SMALL_TABLES} LOOP
        EXECUTE format('CREATE TABLE small.t%s (id int, v int)', n);
        EXECUTE format('INSERT INTO small.t%s VALUES (%s, 1)', n, n);
    END LOOP;
END $$
"""


@dataclass(frozen=True, slots=True)
class Awkward:
    """What was made: tablespaces as name to directory, databases, and the empty one among them."""

    tablespaces: dict[str, Path]
    databases: tuple[str, ...]
    empty_database: str = EMPTY_DATABASE
    database: str = DBNAME


def make_awkward(cluster: Cluster, root: Path, *, big: bool = False) -> Awkward:
    """Fill a running cluster; tablespaces go to directories below `root`, which the server must reach.

    `big` adds the table `big` of more than 1 GiB, which PostgreSQL stores in two files.
    """
    tablespaces = {}
    for name, directory in _TABLESPACES.items():
        tablespaces[name] = root / directory
        tablespaces[name].mkdir(mode=0o700)
        machine.give_to_service(tablespaces[name])
    with cluster.connect() as connection:
        for name, path in tablespaces.items():
            create = sql.SQL("CREATE TABLESPACE {} LOCATION {}")
            connection.execute(create.format(sql.Identifier(name), sql.Literal(str(path))))
        for database in (DBNAME, EMPTY_DATABASE, *_DATABASES):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        elsewhere = sql.SQL("ALTER DATABASE {} SET TABLESPACE {}")
        spaces = list(map(sql.Identifier, tablespaces))
        connection.execute(elsewhere.format(sql.Identifier(_DATABASES[0]), spaces[0]))
    for database in _DATABASES:
        with cluster.connect(database) as connection:
            connection.execute("CREATE TABLE whoami AS SELECT current_database() AS name")
    with cluster.connect(DBNAME) as connection:
        connection.execute(_OBJECTS)
        connection.execute(_LARGE_OBJECTS)
        connection.execute(sql.SQL("ALTER TABLE documents SET TABLESPACE {}").format(spaces[0]))
        connection.execute(sql.SQL("CREATE INDEX ON documents (owner) TABLESPACE {}").format(spaces[1]))
        connection.execute("CREATE SCHEMA small")
        connection.execute(_MANY)
    if big:
        make_big_table(cluster)
    return Awkward(tablespaces, (DBNAME, EMPTY_DATABASE, *_DATABASES))


def make_big_table(cluster: Cluster, *, dbname: str = DBNAME, megabytes: int = 1040, seed: int = 0) -> None:
    """Create the table `big` of that size, one row a page, its content incompressible."""
    payload = 8000
    chance = random.Random(seed)
    with cluster.connect(dbname, autocommit=False) as connection, connection.cursor() as cursor:
        # PLAIN keeps the bytes in the table itself; FREEZE in the creating transaction spares a rewrite.
        cursor.execute("CREATE TABLE big (id int, data bytea)")
        cursor.execute("ALTER TABLE big ALTER data SET STORAGE PLAIN")
        with cursor.copy("COPY big FROM STDIN (FORMAT binary, FREEZE)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0))
            for number in range(megabytes * 1024 * 1024 // 8192 + 1):
                head = struct.pack("!hiii", 2, 4, number, payload)
                copy.write(head + chance.randbytes(payload))
            copy.write(struct.pack("!h", -1))
