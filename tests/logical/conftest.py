"""Servers with a database of everything, and a repository for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.logical.databases import make_everything
from tests.round_trip.conftest import front_doors
from tests.support.postgres import Cluster

__all__ = ["everything", "front_doors"]


@pytest.fixture(scope="package")
def everything() -> Iterator[Callable[[int], Cluster]]:
    """Gives a running server of a major version whose database `everything` has one of all; nobody changes it."""
    made: dict[int, Cluster] = {}

    def cluster(major: int) -> Cluster:
        if major not in made:
            made[major] = Cluster(major)
            made[major].start()
            make_everything(made[major])
        return made[major]

    yield cluster
    for each in made.values():
        each.remove()
