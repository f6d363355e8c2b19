"""How a router behaves beyond what concerns the cluster itself."""

from __future__ import annotations

from dataclasses import dataclass

from pgproof.errors import PreconditionError
from pgproof.model.routing import ReadPolicy


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """All times in seconds.

    `primary_reads`: the primary takes reads while no replica can; otherwise they fail. Each node has between `read_min` and
    `read_max` connections for reads, and the primary between `write_min` and `write_max` beside them for writes; who finds none
    free waits `pool_wait`. Each node is asked every `check_interval`, and has `check_timeout` to answer. A write waits
    `write_wait` for a primary, a read with a token `token_wait` for its replica before it goes to the primary. `stream_rows` is
    how many rows a streamed read fetches at a time. `dict_rows`: rows are dictionaries instead of tuples. `seed` makes the
    choice of replicas the same each time, for tests.
    """

    policy: ReadPolicy = ReadPolicy.WEIGHTED
    primary_reads: bool = True
    read_min: int = 1
    read_max: int = 10
    write_min: int = 1
    write_max: int = 10
    pool_wait: float = 10.0
    check_interval: float = 1.0
    check_timeout: float = 1.0
    write_wait: float = 5.0
    token_wait: float = 0.5
    stream_rows: int = 1000
    dict_rows: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        sizes = (self.read_min, self.read_max), (self.write_min, self.write_max)
        if any(not 0 <= least <= most or most < 1 for least, most in sizes):
            raise PreconditionError(
                "the size of a pool is out of range",
                hint="give a minimum from 0 and a maximum from 1 that is not below it",
            )
        times = (self.check_interval, self.check_timeout, self.pool_wait)
        if min(times) <= 0 or min(self.write_wait, self.token_wait) < 0 or self.stream_rows < 1:
            raise PreconditionError(
                "a time or a number of rows is out of range",
                hint="intervals and time limits are above 0, waits from 0, stream_rows from 1",
            )

    @property
    def check_age(self) -> float:
        """How old a node's last good check may be; an older one no longer tells what it is."""
        return 2 * self.check_interval + self.check_timeout
