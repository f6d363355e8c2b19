"""Tokens of writes: what a read has to see. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn

_TOKEN = re.compile(r"([0-9A-F]{1,8})-([0-9A-F]{1,8})-([0-9A-F]{1,8})\Z")


@dataclass(frozen=True, slots=True, order=True)
class Token:
    """A moment in a cluster's WAL, by timeline and position; what was committed before it is seen by a read that gets it.

    Its text (`str(token)`, `Token.parse`) may travel to other processes, in a cookie or a header. It is no secret, and of
    use in this cluster only.
    """

    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.timeline:X}-{self.lsn.value >> 32:X}-{self.lsn.value & 0xFFFFFFFF:X}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PreconditionError for what is no token."""
        found = _TOKEN.match(text)
        if found is None:
            raise PreconditionError(
                "not a token of a write", hint="pass what str(token) gave, unchanged", token=text[:60]
            )
        timeline, high, low = (int(each, 16) for each in found.groups())
        return cls(timeline, Lsn(high << 32 | low))
