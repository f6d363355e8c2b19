"""Add to a database what it lacks of another one. What is there stays as it is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field

import psycopg

from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.dump_contents import Entry, entries, missing_entries
from pgproof.model.dump_log import NotRestored
from pgproof.model.job import Job
from pgproof.model.report import Finding
from pgproof.postgres.connection import connect, query
from pgproof.postgres.database_building import Connection
from pgproof.postgres.database_copying import DatabaseCopier
from pgproof.postgres.stopping import stopping

# The answers to a question for an object that is not there.
_UNKNOWN = ("42", "3F", "22")


@dataclass(frozen=True, slots=True)
class Added:
    """How many objects were added, and what existed already."""

    count: int
    conflicts: tuple[str, ...]
    findings: list[Finding] = field(default_factory=list)


def add_missing(copier: DatabaseCopier, target: PostgresConfig, database: str, job: Job) -> Added:
    """All of it, or in the case of an error nothing."""
    job.report("looking what is missing")
    found = entries(copier.contents())
    missing: set[int] = set()
    conflicts: list[str] = []
    with (
        closing(connect(target, dbname=database)) as live,
        stopping(job, "a look at the database", live, copier.connection),
        live.transaction(),
    ):
        for entry in found:
            job.checkpoint()
            if not entry.is_object or entry.is_large_object:
                continue
            name = _existing(copier.connection, live, entry)
            if name is None:
                missing.add(entry.number)
            else:
                conflicts.append(name)
        has_large_objects = bool(query(live, "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)")[0][0])
    wanted = list(missing_entries(found, missing, large_objects=not has_large_objects))
    if has_large_objects and any(entry.is_large_object for entry in found):
        conflicts.append("large objects: none were added, because there are some already")
    use_list = "".join(f"{entry.number}; {entry.catalog} {entry.oid} {entry.text}\n" for entry in wanted)
    failpoint("database.adding")
    try:
        findings = copier.add_to(database, use_list, lambda: job.report(f"adding to {database}"))
    except NotRestored as error:
        raise NotRestored(
            "what is missing does not fit what is there, so nothing was added",
            hint=f"restore under another name and take from there what you need: --target NAME\n{error.hint}",
            **error.context,
        ) from error
    failpoint("database.added")
    count = sum(entry.is_object or entry.is_large_object for entry in wanted)
    return Added(count, tuple(dict.fromkeys(conflicts)), findings)


def _existing(source: Connection, live: Connection, entry: Entry) -> str | None:
    """What this object is called, if `live` has one of the same name."""
    found = source.execute(
        "SELECT a.type, a.object_names, a.object_args, i.type || ' ' || i.identity "
        "FROM pg_identify_object_as_address(%(catalog)s, %(oid)s, 0) a, pg_identify_object(%(catalog)s, %(oid)s, 0) i",
        {"catalog": entry.catalog, "oid": entry.oid},
    ).fetchone()
    assert found is not None
    try:
        with live.transaction():
            live.execute("SELECT pg_get_object_address(%s, %s::text[], %s::text[])", found[:3])
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(_UNKNOWN):
            raise
        return None
    return str(found[3])
