"""Records of the WAL, read from what `pg_waldump` prints of them (PostgreSQL 15 to 18)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pgproof.model.lsn import Lsn

_LINE = re.compile(
    r"rmgr: (?P<rmgr>\S+) +len \(rec/tot\): +\d+/ *(?P<length>\d+), tx: +(?P<tx>\d{1,10}), "
    r"lsn: (?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8}), prev (?P<prev>[0-9A-F]{1,8}/[0-9A-F]{1,8}), desc: (?P<desc>.*)",
    re.DOTALL,
)
_END_OF_TRANSACTION = re.compile(
    r"(COMMIT|ABORT)(?:_PREPARED (\d{1,10}):)? (\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?) UTC"
)
_RESTORE_POINT = re.compile(r"RESTORE_POINT (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One record: where it begins, where the one before it begins, and what it says."""

    lsn: Lsn
    prev: Lsn
    rmgr: str
    xid: int
    description: str


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """A transaction's commit, or its rollback."""

    record: WalRecord
    xid: int
    time: datetime
    committed: bool

    @property
    def lsn(self) -> Lsn:
        return self.record.lsn

    def to_json(self) -> dict[str, Any]:
        return {"lsn": str(self.lsn), "xid": self.xid, "time": self.time.isoformat()}

    def __str__(self) -> str:
        return f"{self.time:%Y-%m-%d %H:%M:%S.%f} UTC, transaction {self.xid}, at {self.lsn}"


def parse_record(line: str) -> WalRecord | None:
    """A line of pg_waldump's output; None if it is not a record."""
    found = _LINE.match(line)
    if found is None:
        return None
    return WalRecord(
        Lsn.parse(found["lsn"]), Lsn.parse(found["prev"]), found["rmgr"], int(found["tx"]), found["desc"]
    )


def transaction_end(record: WalRecord) -> TransactionEnd | None:
    found = _END_OF_TRANSACTION.match(record.description) if record.rmgr == "Transaction" else None
    if found is None:
        return None
    try:
        time = datetime.fromisoformat(found[3]).replace(tzinfo=UTC)
    except ValueError:  # a year that Python does not have
        return None
    return TransactionEnd(record, int(found[2] or record.xid), time, found[1] == "COMMIT")


def restore_point(record: WalRecord) -> str | None:
    """The name of the restore point that the record makes."""
    found = _RESTORE_POINT.match(record.description) if record.rmgr == "XLOG" else None
    return found[1] if found else None
