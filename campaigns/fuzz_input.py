"""The fuzzer's bytes as choices, and as changes of a JSON document."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# What a field may hold instead of what a writer wrote there.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**400, -(2**63), 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "0", "-1", "..", "../x", "/", "/etc", "a\0b", "\ud800", "²", "٣", "0/0", "FFFFFFFF/FFFFFFFF",
    "0/FFFFFFFF", "9" * 5000, "x" * 10_000, "AA==", "////", "=", "full", "none", "20261123T213000Z-full-3fa91c",
    "2026-11-23T21:30:00+00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "18.6", "999.9", "0" * 64,
    [], {}, [[]], {"": 0}, [None], {"20261123T213000Z-full-3fa91c": "/////w=="},
)  # fmt: skip


_MOST_CHANGES = 32


class Input:
    """Takes choices from the front of some bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def number(self, length: int) -> int:
        found = self._data[self._at : self._at + length]
        self._at += length
        return int.from_bytes(found, "little")

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number(1) % len(choices)]

    def piece(self) -> bytes:
        """Some bytes, their number first."""
        length = self.number(1)
        self._at += length
        return self._data[self._at - length : self._at]

    def rest(self) -> bytes:
        found = self._data[self._at :]
        self._at = len(self._data)
        return found


def mutate_json(data: bytes, document: bytes) -> bytes:
    """If the first byte is even, the rest as it is; else `document` with the changes that the rest describes."""
    choice = Input(data)
    if choice.number(1) % 2 == 0:
        return choice.rest()
    value = json.loads(document)
    for _ in range(_MOST_CHANGES):
        if not choice.left:
            break
        value = _changed(value, choice)
    return json.dumps(value).encode()


def _changed(value: Any, choice: Input) -> Any:
    """One place of the document, found by walking down, gets another value, goes, or is there twice."""
    at, way = value, choice.number(1)
    if not isinstance(at, dict | list) or not at:
        return value
    while True:
        keys: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = choice.one_of(keys)
        below = at[key]
        if isinstance(below, dict | list) and below and way % 4 != 3:
            at = below
            continue
        break
    if way % 5 == 0:
        del at[key]
    elif way % 5 == 1 and isinstance(at, list):
        at.append(copy.deepcopy(at[key]))
    elif way % 5 == 2:
        at[key] = choice.piece().decode("utf-8", "surrogateescape")
    elif way % 5 == 3:
        at[key] = choice.number(8) - (1 << 40)
    else:
        at[key] = copy.deepcopy(choice.one_of(ODD_VALUES))
    return value
