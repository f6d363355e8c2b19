"""The names of all objects, in one place (docs/format.md, section 1)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.wal_names import StoredRange

REPOSITORY = "repository.json"
KEYS = "keys/"
CLUSTERS = "clusters/"
_PACK = re.compile(r"([0-9]{8})(?:\.([0-9]{2}))?-([0-9a-f]{64})\Z")


def key_slot(slot: str) -> str:
    return f"{KEYS}{slot}"


def is_number(text: str) -> bool:
    """Whether a part of a name is a number; a store may list digits of other alphabets, too."""
    return text.isascii() and text.isdigit()


class PackName(NamedTuple):
    """The last part of a pack's name: `rewritten` says how often, `digest` is the hash of the whole object."""

    number: int
    rewritten: int
    digest: str


def parse_pack_name(name: str) -> PackName | None:
    """None for what is no pack's name."""
    found = _PACK.match(name)
    if found is None or found[2] == "00":
        return None
    return PackName(int(found[1]), int(found[2] or 0), found[3])


class ClusterLayout:
    """The names below `clusters/<name>/`."""

    def __init__(self, cluster: str) -> None:
        self.root = f"{CLUSTERS}{cluster}/"
        self.cluster = f"{self.root}cluster"
        self.backups = f"{self.root}backups/"
        self.packs = f"{self.root}packs/"
        # A map's context is its key without the hash, so all maps of a cluster share one.
        self.maps = f"{self.root}maps"
        self.wal = f"{self.root}wal/"
        self.fingerprints = f"{self.root}fingerprints/"
        self.condemned = f"{self.root}condemned/"
        self.cleanups = f"{self.root}cleanups/"
        self.alarms = f"{self.root}alarms/"
        self.drills = f"{self.root}drills/"
        self.actions = f"{self.root}actions/"

    def intent(self, backup_id: str) -> str:
        return f"{self.backups}{backup_id}/intent"

    def manifest(self, backup_id: str) -> str:
        return f"{self.backups}{backup_id}/manifest"

    def verified(self, backup_id: str, at: datetime) -> str:
        return f"{self.verifications(backup_id)}{at:%Y%m%dT%H%M%S%fZ}"

    def fingerprint(self, lsn: Lsn, at: datetime) -> str:
        return f"{self.fingerprints}{lsn.value:016X}-{at:%Y%m%dT%H%M%S%fZ}"

    def pins(self, backup_id: str) -> str:
        return f"{self.backups}{backup_id}/pins/"

    def pin(self, backup_id: str, at: datetime) -> str:
        return f"{self.pins(backup_id)}{at:%Y%m%dT%H%M%S%fZ}"

    def cleanup(self, at: datetime, nonce: str) -> str:
        return f"{self.cleanups}{at:%Y%m%dT%H%M%S%fZ}-{nonce}"

    def alarm(self, number: int) -> str:
        return f"{self.alarms}{number:08d}"

    def drill(self, at: datetime, nonce: str) -> str:
        return f"{self.drills}{at:%Y%m%dT%H%M%S%fZ}-{nonce}"

    def action(self, at: datetime, nonce: str) -> str:
        return f"{self.actions}{at:%Y%m%dT%H%M%S%fZ}-{nonce}"

    def verifications(self, backup_id: str) -> str:
        return f"{self.backups}{backup_id}/verified/"

    def packs_of(self, backup_id: str) -> str:
        return f"{self.packs}{backup_id}/"

    def pack_context(self, backup_id: str, number: int) -> str:
        return f"{self.packs_of(backup_id)}{number:08d}"

    def rewritten_pack(self, backup_id: str, number: int, rewritten: int) -> str:
        """A pack's name without its hash (docs/decisions/0019-compaction.md)."""
        return f"{self.pack_context(backup_id, number)}.{rewritten:02d}"

    def map(self, name: str) -> str:
        return f"{self.maps}/{name}"

    def timeline(self, timeline: int) -> str:
        return f"{self.wal}{timeline:08X}/"

    def segment(self, segment: WalSegment) -> str:
        return f"{self.timeline(segment.timeline)}{segment.name}"

    def wal_range(self, stored: StoredRange) -> str:
        """A whole segment, or a part of one."""
        return f"{self.timeline(stored.segment.timeline)}{stored.name}"

    def partial(self, segment: WalSegment, name: str) -> str:
        return f"{self.segment(segment)}.partial.{name}"

    def minimal(self, segment: WalSegment, offset: int) -> str:
        return f"{self.segment(segment)}.minimal.{offset:08X}"

    def history(self, timeline: int) -> str:
        return f"{self.timeline(timeline)}{timeline:08X}.history"

    def leases(self, purpose: str) -> str:
        return f"{self.root}leases/{purpose}/"
