"""Which PostgreSQL cluster the backups under a name belong to."""

from __future__ import annotations

import contextlib

from pgproof.errors import ConflictError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.postgres.facts import ServerFacts
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind


def ensure_cluster(repository: Repository, facts: ServerFacts) -> None:
    """The repository's cluster of this name is this one; the first backup says so.

    Raises PreconditionError for a cluster with another system identifier.
    """
    key = repository.layout.cluster
    described = {
        "format": 1,
        "system_identifier": facts.system_identifier,
        "block_size": facts.block_size,
        "wal_segment_size": facts.wal_segment_size,
    }
    if repository.bucket.head(key) is None:
        # Another run may be first; what it wrote is compared below.
        with contextlib.suppress(ConflictError):
            repository.create_json(Kind.CLUSTER, key, described)
        failpoint("cluster.described")
    known = repository.read_json(Kind.CLUSTER, key)
    failpoint("cluster.known")
    if known.get("system_identifier") != facts.system_identifier:
        raise PreconditionError(
            "this is another cluster than the one backed up here under this name",
            hint="correct the host, or give this cluster a name of its own with --cluster "
            "(after pg_upgrade or initdb it is a new cluster)",
            cluster=repository.cluster,
            expected=known.get("system_identifier"),
            found=facts.system_identifier,
        )
