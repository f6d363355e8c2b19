"""A backup by the server's WAL summaries: whether it may be made, and what it needs from the base and the server.

Where anything speaks against it, SummariesUnusable is raised, and the backup is made by comparing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
from psycopg import pq

from pgproof.actions.choose_base import packs_known_damaged
from pgproof.actions.materialise import find_file
from pgproof.errors import DataError
from pgproof.model.config import PostgresConfig
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.server_manifest import ServerManifestReader
from pgproof.model.source_files import SERVER_MANIFEST
from pgproof.model.summaries import SummariesUnusable, reason_against
from pgproof.postgres.base_backup import Started
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.wal_stream import identify_system, timeline_history
from pgproof.postgres.wal_summaries import (
    limit_blocks,
    ordinary_connection,
    summarizing_server,
    upload_manifest,
)
from pgproof.repository.base import Base
from pgproof.repository.catalog import refutation
from pgproof.repository.content import Content
from pgproof.repository.integrity import check_objects
from pgproof.repository.rebuild import Rebuild
from pgproof.repository.repository import Repository

_PAGES_AT_ONCE = 64


class BySummaries:
    """Found usable for the base. Use as a context manager: it holds an ordinary connection to the server."""

    def __init__(
        self,
        repository: Repository,
        postgres: PostgresConfig,
        pgconn: pq.abc.PGconn,
        facts: ServerFacts,
        base: Manifest,
        job: Job,
    ) -> None:
        """Raises SummariesUnusable with the first reason that speaks against it."""
        self._repository = repository
        self._base = base
        self._facts = facts
        self.rebuild: Rebuild | None = None
        if facts.major < 17:
            raise SummariesUnusable("the server is older than PostgreSQL 17")
        with ExitStack() as stack:
            self._connection: psycopg.Connection[tuple[object, ...]] = stack.enter_context(
                ordinary_connection(postgres)
            )
            history = timeline_history(pgconn, identify_system(pgconn).timeline)
            self._server = summarizing_server(self._connection, history)
            reason = reason_against(
                base, self._server, facts.major, facts.system_identifier, facts.data_checksums
            )
            if reason:
                raise SummariesUnusable(reason)
            self._require_whole_base(job)
            self._stack = stack.pop_all()

    def upload(self, pgconn: pq.abc.PGconn) -> None:
        """Tell the server what the backup builds on."""
        upload_manifest(pgconn, self._manifest_pieces())

    def rebuild_for(self, base: Base, started: Started) -> Rebuild:
        """Now that the backup has its start, summaries reach to it: the server waited for them."""
        limits = limit_blocks(self._connection, started.timeline, self._base.start_lsn, started.lsn)
        pages = self._server.segment_bytes // self._facts.block_size
        self.rebuild = Rebuild(base, limits, self._facts.block_size, pages)
        return self.rebuild

    def _require_whole_base(self, job: Job) -> None:
        """What is damaged cannot be inherited; comparing stores it again."""
        named = {(owner, n) for owner, bitmap in self._base.packs.items() for n in numbers_of(bitmap)}
        if refutation(self._repository, self._base.backup_id):
            raise SummariesUnusable("the base lacks blocks, as an audit found")
        if packs_known_damaged(self._repository, self._base) & named:
            raise SummariesUnusable("the base is damaged, as a verification found")
        _text, missing = check_objects(self._repository, self._base, job)
        if missing:
            raise SummariesUnusable("objects of the base are missing", object=missing[0])
        reader = ServerManifestReader()
        try:
            for piece in self._manifest_pieces():
                for _file in reader.feed(piece):
                    pass
            for _file in reader.finish():
                pass
        except DataError as error:
            raise SummariesUnusable(f"the base's own manifest is damaged ({error.message})") from error

    def _manifest_pieces(self) -> Iterator[bytes]:
        found = find_file(self._repository, self._base, SERVER_MANIFEST)
        if found is None:
            raise SummariesUnusable("the base has no manifest of the server's")
        segment, entry = found
        left = entry.size
        for _page, data in Content(self._repository).pages(
            segment, entry, self._base.block_size, _PAGES_AT_ONCE
        ):
            yield data[:left]
            left -= min(left, len(data))

    def __enter__(self) -> BySummaries:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
