"""What a repository must hold, beside the repository itself, and the invariants that compare the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis.stateful import RuleBasedStateMachine, invariant

from campaigns.campaign import Campaign
from campaigns.repository_damage import Damage, named
from campaigns.small_repository import BEGUN, MemoryBucket
from campaigns.synthetic_runs import Files, SyntheticRun, read_files, read_wal, segment_at, wal_content
from pgproof.errors import DataError, EngineError, PreconditionError
from pgproof.model.config import BackupType
from pgproof.model.filemap import numbers_of
from pgproof.model.lsn import WalSegment
from pgproof.model.manifest import Manifest, backup_id_for
from pgproof.repository import layout
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import list_backups
from pgproof.repository.escape_hatch import script_key
from pgproof.repository.repository import Repository
from pgproof.repository.unlocking import unlock

# Pieces of files: short and long, alike and unlike, of zeros, and larger than a frame.
_NOISE = bytes(number * number % 251 for number in range(600_000))
PIECES = (
    b"",
    b"x",
    b"page" * 2048,
    bytes(8192),
    _NOISE[3:8195],
    b"half a page" * 400,
    b"".join(number.to_bytes(8, "big") * 8 for number in range(3000)),
    bytes(70_000),
    _NOISE,
)
_FOLDERS: Files = {b"base": None, b"global": None, b"pg_xact": None}


@dataclass
class Backup:
    """A committed backup: what was put in, and the names of the objects it needs."""

    backup_id: str
    files: Files
    keys: set[str] = field(default_factory=set)


class RepositoryOracle(RuleBasedStateMachine):
    """`campaign` and `starts` (a new repository by whether it is encrypted, and its key) are set by `run`."""

    campaign: Campaign
    starts: dict[bool, tuple[MemoryBucket, str | None]]

    def begin(self, encrypted: bool) -> None:
        start, secret = self.starts[encrypted]
        self.bucket = start.copy()
        self.encrypted = encrypted
        slots = [info.key.removeprefix(layout.KEYS) for info in start.list(layout.KEYS)]
        self.secrets = dict.fromkeys(slots, secret)
        self.key = unlock(self.bucket, secret, encrypted).key
        self.backups: dict[str, Backup] = {}
        self.given_up: list[str] = []
        self.wal: list[WalSegment] = []
        self.damage: dict[str, Damage] = {}
        self.clock, self.timeline, self.position, self.turn = BEGUN, 1, 5, 0
        self.count("histories")

    # What must always hold

    @invariant()
    def only_what_was_committed_is_listed(self) -> None:
        listed = {info.backup_id: info.status for info in list_backups(self.open())}
        # A manifest that cannot be read may have been one or the word that the run was given up.
        names = self.open().layout
        unreadable = {each for each in self.given_up if names.manifest(each) in self.damage}
        assert listed.keys() == self.backups.keys() | unreadable
        for backup_id, status in listed.items():
            assert status == ("damaged" if names.manifest(backup_id) in self.damage else "ok")
        self.count("steps")

    @invariant()
    def what_is_named_is_there(self) -> None:
        there = self.bucket.objects.keys() | self.damage.keys()
        for backup in self.backups.values():
            assert backup.keys <= there
        assert {self.open().layout.segment(segment) for segment in self.wal} <= there

    @invariant()
    def one_of_them_is_read_back(self) -> None:
        """A different one after each step; all of them at the end."""
        self.turn += 1
        if self.backups:
            self.read_back(self.some_backup(self.turn))
        if self.wal:
            self._read_back_wal(self.wal[self.turn % len(self.wal)])

    def teardown(self) -> None:
        if not hasattr(self, "bucket"):
            return
        for key in list(self.damage):
            self.damage.pop(key).heal(self.bucket)
        for backup in self.backups.values():
            self.read_back(backup)
        for segment in self.wal:
            self._read_back_wal(segment)

    # Comparing

    def read_back(self, backup: Backup) -> None:
        """As it was written, or an error if it is damaged: never anything else."""
        repository = self.open()
        try:
            manifest = repository.read_manifest(backup.backup_id)
            assert manifest is not None
            files = read_files(repository, manifest)
        except DataError:
            assert self.hits(backup), "a whole backup is said to be damaged"
            self.count("restores stopped by damage")
        else:
            assert files == backup.files
            self.count("restores compared")

    def _read_back_wal(self, segment: WalSegment) -> None:
        try:
            content = read_wal(self.open(), segment)
        except DataError:
            assert self.open().layout.segment(segment) in self.damage
        else:
            assert content == wal_content(segment)
            self.count("WAL segments compared")

    def hits(self, backup: Backup) -> set[str]:
        """The damaged objects that this backup needs."""
        return self.damage.keys() & {*backup.keys, script_key()}

    def assert_named(self, key: str, text: str) -> None:
        assert named(key) in text, f"{key} is damaged, and this is said: {text}"
        self.count("damaged objects named")

    def refused(self, action: Callable[[], object]) -> str:
        """The words with which an action is refused, as it must be."""
        try:
            action()
        except (DataError, PreconditionError) as error:
            return str(error)
        raise AssertionError("this should have been refused")

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Damaged objects are a reason to refuse work, which is then given up; nothing else is."""
        try:
            yield
        except EngineError:
            if not self.damage:
                raise
            self.count("work refused because of damage")

    # Runs

    def new_run(
        self, files: dict[bytes, list[int]], later: bool, bucket: Bucket | None = None
    ) -> SyntheticRun:
        """A second later than the run before it, or within the same second."""
        self.clock += timedelta(seconds=later)
        self.turn += 1
        content = {path: b"".join(PIECES[n] for n in pieces) for path, pieces in files.items()}
        backup_id = backup_id_for(self.clock, BackupType.FULL, f"{self.turn * 7919 % (1 << 24):06x}")
        wal = segment_at(self.timeline, self.position)
        return SyntheticRun(self.open(bucket), backup_id, self.clock, {**_FOLDERS, **content}, wal)

    def settle(self, *runs: SyntheticRun) -> None:
        """Note what runs have done, however they ended."""
        repository = self.open()
        for run in runs:
            self.wal += run.acknowledged
            key = repository.layout.manifest(run.backup_id)
            if run.backup_id not in self.backups and self.bucket.head(key) is not None:
                manifest = repository.read_manifest(run.backup_id)
                if manifest is not None:
                    self._committed(run, manifest)
        for key in [key for key, each in self.damage.items() if each.how == "deleted"]:
            if self.bucket.head(key) is not None:
                del self.damage[key]
                self.count("lost objects stored again")

    def _committed(self, run: SyntheticRun, manifest: Manifest) -> None:
        repository = self.open()
        names = repository.layout
        keys = {names.manifest(run.backup_id), names.intent(run.backup_id), names.cluster}
        keys |= {names.map(ref.hash) for ref in manifest.maps}
        keys |= {names.segment(segment) for segment in manifest.wal_segments}
        for owner, bitmap in manifest.packs.items():
            contexts = {names.pack_context(owner, number) for number in numbers_of(bitmap)}
            packs = {*self.bucket.objects, *self.damage}
            keys |= {key for key in packs if "/packs/" in key and named(key) in contexts}
            assert len(contexts) == len({named(key) for key in keys if named(key) in contexts})
        self.backups[run.backup_id] = Backup(run.backup_id, run.files, keys)
        self.count("backups committed")
        if len(manifest.packs) > 1 or (run.backup_id not in manifest.packs and manifest.packs):
            self.count("backups that use packs of interrupted runs")

    # Tools

    def open(self, bucket: Bucket | None = None) -> Repository:
        """Unlocking is tried by the rules; here the key is known."""
        return Repository(bucket or self.bucket, self.key, "main")

    def count(self, what: str, by: int = 1) -> None:
        self.campaign.count(what, by)

    def tick(self) -> datetime:
        self.clock += timedelta(microseconds=1)
        return self.clock

    def some_backup(self, index: int) -> Backup:
        return self.backups[sorted(self.backups)[index % len(self.backups)]]
