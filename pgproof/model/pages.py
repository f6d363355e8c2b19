"""PostgreSQL's page checksums (src/include/storage/checksum_impl.h), for many pages at once."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

_OFFSETS = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    np.uint32,
)  # fmt: skip
_PRIME = np.uint32(16777619)
_CHECKSUM_WORD = 2  # pd_checksum is the low half of the third 32-bit word
_RELATION = re.compile(
    rb"(?:base/\d+|global|pg_tblspc/\d+/[^/]+/\d+)/\d+(?:_(?:fsm|vm|init))?(?:\.(?P<segment>\d+))?\Z"
)


def segment_number(path: bytes) -> int | None:
    """Which segment of its relation a file is (0, 1, …); None for files without page checksums."""
    found = _RELATION.match(path)
    return int(found["segment"] or 0) if found else None


def checksums(data: bytes | memoryview, first_block: int, block_size: int) -> npt.NDArray[np.uint16]:
    """The checksum each page should have; `first_block` is the relation's block number of the first."""
    words = np.frombuffer(data, "<u4").reshape(-1, block_size // 128, 32).copy()
    words[:, 0, _CHECKSUM_WORD] &= np.uint32(0xFFFF0000)
    sums = np.broadcast_to(_OFFSETS, (len(words), 32)).copy()
    for row in range(words.shape[1]):
        sums = _mix(sums, words[:, row])
    zero = np.zeros_like(sums)
    sums = _mix(_mix(sums, zero), zero)
    result: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(sums, axis=1)
    blocks = np.arange(first_block, first_block + len(words), dtype=np.uint32)
    expected: npt.NDArray[np.uint32] = (result ^ blocks) % np.uint32(65535) + np.uint32(1)
    return expected.astype(np.uint16)


def bad_pages(data: bytes | memoryview, first_block: int, block_size: int) -> list[int]:
    """Positions in `data` (0, 1, …) of the pages whose checksum fails; all-zero pages are fine."""
    stored = np.frombuffer(data, "<u4").reshape(-1, block_size // 4)
    upper = stored[:, 3] >> np.uint32(16)
    wrong = (stored[:, _CHECKSUM_WORD] & np.uint32(0xFFFF)).astype(np.uint16) != checksums(
        data, first_block, block_size
    )
    # A page that was never initialised has pd_upper 0 and must be zero throughout.
    new = (upper == 0) & ~stored.any(axis=1)
    return np.flatnonzero(wrong & ~new).tolist()


def _mix(sums: npt.NDArray[np.uint32], values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    mixed = sums ^ values
    return (mixed * _PRIME) ^ (mixed >> np.uint32(17))
