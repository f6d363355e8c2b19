"""What `global/pg_control` says about a cluster: identity, state, WAL position, sizes and minimum settings.

Layouts: `src/include/catalog/pg_control.h` of PostgreSQL 15 to 18 on a 64-bit little-endian machine. They
differ only behind the checksum version (a byte more in 18) and in a field of the checkpoint that fills
what was padding before 17.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime

import crc32c

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn

CONTROL_FILE = "global/pg_control"

# Where the CRC lies, by pg_control_version (1300: PostgreSQL 13 to 16).
_CRC_OFFSET = {1300: 288, 1700: 288, 1800: 292}

_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
_WAL_LEVELS = ("minimal", "replica", "logical")

_IDENTITY = struct.Struct("<QIIi")  # system identifier, control version, catalog version, state
_CHECKPOINT = struct.Struct("<QQI")  # at 32: checkpoint, redo, timeline
_CHECKPOINT_TIME = struct.Struct("<q")  # at 104: seconds since 1970, by the server's clock
_RECOVERY = struct.Struct(
    "<QI4xQQ"
)  # at 136: minimum recovery point and its timeline, backup start, backup end
_SETTINGS = struct.Struct("<i?3x5i?")  # at 172
_SIZES = struct.Struct("<4I")  # at 216
_CHECKSUM_VERSION = struct.Struct("<I")  # at 252


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The fields of pg_control that decide whether and how a server can start on these files.

    `state` is in pg_controldata's words; `data_checksum_version` is 0 without page checksums;
    `segment_blocks` is the number of blocks in a file of a large relation.
    """

    system_identifier: int
    pg_control_version: int
    catalog_version: int
    state: str
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: int
    checkpoint_time: datetime
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start: Lsn
    backup_end: Lsn
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    block_size: int
    segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    data_checksum_version: int

    @property
    def minima(self) -> dict[str, str]:
        """The settings that must not be lower than on the source while its WAL is replayed."""
        return {
            "max_connections": str(self.max_connections),
            "max_worker_processes": str(self.max_worker_processes),
            "max_wal_senders": str(self.max_wal_senders),
            "max_prepared_transactions": str(self.max_prepared_transactions),
            "max_locks_per_transaction": str(self.max_locks_per_transaction),
        }

    @property
    def wal_sizes(self) -> dict[str, str]:
        """PostgreSQL's defaults, or twice the segment size, below which a server does not start."""
        least = 2 * self.wal_segment_size >> 20
        return {"min_wal_size": f"{max(80, least)}MB", "max_wal_size": f"{max(1024, least)}MB"}


def parse_control_file(data: bytes) -> ControlFile:
    """Read the bytes of `global/pg_control`.

    Raises DataError if the file is cut, its checksum is wrong, or its version is not one of 15 to 18.
    """
    if len(data) < _IDENTITY.size:
        raise DataError("pg_control is too short", hint="restore it from another backup", size=len(data))
    system_identifier, version, catalog_version, state = _IDENTITY.unpack_from(data)
    crc_offset = _CRC_OFFSET.get(version)
    if crc_offset is None:
        raise DataError(
            "pg_control has an unknown version",
            hint="these are not the files of PostgreSQL 15 to 18 on a little-endian machine, or pg_control is"
            " damaged",
            pg_control_version=version,
        )
    if len(data) < crc_offset + 4:
        raise DataError("pg_control is too short", hint="restore it from another backup", size=len(data))
    (stored,) = struct.unpack_from("<I", data, crc_offset)
    if crc32c.crc32c(data[:crc_offset]) != stored:
        raise DataError("the checksum of pg_control is wrong", hint="restore it from another backup")
    checkpoint, redo, timeline = _CHECKPOINT.unpack_from(data, 32)
    minimum, minimum_timeline, backup_start, backup_end = _RECOVERY.unpack_from(data, 136)
    wal_level, hints, connections, workers, senders, prepared, locks, commit_times = _SETTINGS.unpack_from(
        data, 172
    )
    block_size, segment_blocks, wal_block_size, wal_segment_size = _SIZES.unpack_from(data, 216)
    (checksum_version,) = _CHECKSUM_VERSION.unpack_from(data, 252)
    return ControlFile(
        system_identifier=system_identifier,
        pg_control_version=version,
        catalog_version=catalog_version,
        state=_word(_STATES, state),
        checkpoint_lsn=Lsn(checkpoint),
        redo_lsn=Lsn(redo),
        timeline=timeline,
        checkpoint_time=_time(*_CHECKPOINT_TIME.unpack_from(data, 104)),
        min_recovery_point=Lsn(minimum),
        min_recovery_timeline=minimum_timeline,
        backup_start=Lsn(backup_start),
        backup_end=Lsn(backup_end),
        wal_level=_word(_WAL_LEVELS, wal_level),
        wal_log_hints=hints,
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_transactions=prepared,
        max_locks_per_transaction=locks,
        track_commit_timestamp=commit_times,
        block_size=block_size,
        segment_blocks=segment_blocks,
        wal_block_size=wal_block_size,
        wal_segment_size=wal_segment_size,
        data_checksum_version=checksum_version,
    )


def _time(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        raise DataError(
            "pg_control holds a time that cannot be", hint="restore it from another backup", seconds=seconds
        ) from None


def _word(words: tuple[str, ...], number: int) -> str:
    if 0 <= number < len(words):
        return words[number]
    raise DataError("pg_control holds an unknown code", hint="use a newer pgproof", code=number)
