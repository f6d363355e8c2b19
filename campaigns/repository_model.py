"""Random histories of a repository against a model of what it must hold.

Backups, WAL, crashes at any storage call, repetitions, runs that are given up, second writers, key changes, damage
and its repair, in any order; after each step the invariants hold: what is listed is whole (I2), names only what is
there (I3) and is read back as it was written or not at all (I4), nothing else is listed (I5), acknowledged WAL is
there (I1), and damage is named with the backups it hits (I7). Hypothesis shrinks a failing history and prints it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from campaigns.campaign import Campaign
from campaigns.repository_damage import HOW, Damage
from campaigns.repository_oracle import PIECES, RepositoryOracle
from campaigns.small_repository import BEGUN, MemoryBucket
from campaigns.synthetic_runs import append_wal, segment_at, small_packs
from pgproof.errors import ConflictError, EngineError, TransientError
from pgproof.model.config import VerifyLevel
from pgproof.model.job import Job
from pgproof.model.lsn import WalSegment
from pgproof.model.report import VerificationReport
from pgproof.repository import keyring, layout
from pgproof.repository.catalog import find_backup, store_verification
from pgproof.repository.escape_hatch import ensure_restore_script, script_key
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.leases import hold_lease
from pgproof.repository.sealing import Kind
from pgproof.repository.unlocking import add_slot, make_repository, remove_slot, unlock
from tests.support.faults import FailingBucket

_RUNS, _STEPS = 2000, 45
_PATHS = [b"PG_VERSION", *(b"base/%d" % n for n in range(6)), b"global/pg_control", b"pg_xact/0000"]

_pieces = st.lists(st.integers(0, len(PIECES) - 1), max_size=4)
_files = st.dictionaries(st.sampled_from(_PATHS), _pieces, max_size=8)
_index = st.integers(0, 1000)
_Drawn = dict[bytes, list[int]]


def run(campaign: Campaign) -> None:
    machine = type("Machine", (RepositoryModel,), {"campaign": campaign, "starts": _starts()})
    limits = settings(
        max_examples=campaign.times(_RUNS),
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    with small_packs():
        run_machine(seed(campaign.seed)(machine), settings=limits)
    for what, times in _EACH_HISTORY.items():
        if campaign.share >= 0.1:
            campaign.require(what, round(times * _RUNS))
        elif times >= 0.5:  # in a small sample what is rare may not come
            campaign.require(what, 1)


# How often each thing has to have been done for each history, so that a rule that never applies is noticed.
_EACH_HISTORY = {
    "histories": 1.0,
    "steps": 20.0,
    "backups committed": 2.0,
    "crashes": 0.5,
    "crashes after the commit": 0.05,
    "backups that use packs of interrupted runs": 0.05,
    "WAL streams that crashed": 0.2,
    "restores compared": 10.0,
    "restores stopped by damage": 0.1,
    "verifications": 0.4,
    "objects damaged": 0.5,
    "damaged objects named": 0.1,
    "objects healed": 0.2,
    "lost objects stored again": 0.01,
    "pairs of writers": 0.2,
    "second writers refused": 0.5,
    "second servers refused": 0.5,
    "runs given up": 0.5,
    "keys removed": 0.2,
    "damaged keys refused": 0.5,
}


def _starts() -> dict[bool, tuple[MemoryBucket, str | None]]:
    """Repositories that open quickly: their key slot is the recovery key's."""
    found = {}
    for encrypted in (False, True):
        bucket = MemoryBucket()
        secret = make_repository(bucket, "of the operator" if encrypted else None, encrypted, BEGUN)
        ensure_restore_script(bucket)
        for info in list(bucket.list(layout.KEYS)):
            slot = keyring.describe_slot(bucket.read(layout.REPOSITORY), bucket.read(info.key))
            if slot is not None and slot.kind == keyring.PASSPHRASE:
                remove_slot(bucket, slot.slot_id)
        found[encrypted] = bucket, secret
    return found


class RepositoryModel(RepositoryOracle):
    """The rules: everything that is done to a repository, well meant or not."""

    @initialize(encrypted=st.booleans())
    def make(self, encrypted: bool) -> None:
        self.begin(encrypted)

    # Runs

    @rule(files=_files, later=st.booleans(), switch=st.booleans())
    def backup(self, files: _Drawn, later: bool, switch: bool) -> None:
        run = self.new_run(files, later)
        with self.excused():
            with hold_lease(run.repository, "backup"):
                run.take()
            self.position += switch
        self.settle(run)

    @rule(files=_files, calls=st.integers(0, 9), effect=st.booleans(), repeated=st.booleans())
    def backup_that_crashes(self, files: _Drawn, calls: int, effect: bool, repeated: bool) -> None:
        """The plug is pulled after `calls` changes of the storage; then the run may be repeated at once."""
        run = self.new_run(files, True, FailingBucket(self.bucket, calls, last_takes_effect=effect))
        committed = len(self.backups)
        try:
            with hold_lease(run.repository, "backup"):
                run.take()
        except EngineError as error:
            assert isinstance(error, TransientError) or self.damage, error
            self.settle(run)
            self.count("crashes")
            self.count("crashes after the commit", len(self.backups) - committed)
            if repeated:
                self.backup(files, True, False)
        else:
            self.settle(run)

    @rule(segments=st.integers(1, 3))
    def log(self, segments: int) -> None:
        wanted = [segment_at(self.timeline, self.position + n) for n in range(segments)]
        with self.excused():
            append_wal(self.open(), wanted, self.wal)
            assert self.wal[-segments:] == wanted
            self.position += segments

    @rule(segments=st.integers(1, 4), calls=st.integers(0, 3), effect=st.booleans())
    def log_that_crashes(self, segments: int, calls: int, effect: bool) -> None:
        wanted = [segment_at(self.timeline, self.position + n) for n in range(segments)]
        failing = FailingBucket(self.bucket, calls, last_takes_effect=effect)
        try:
            append_wal(self.open(failing), wanted, self.wal)
        except EngineError as error:
            assert isinstance(error, TransientError) or self.damage, error
            self.count("WAL streams that crashed")

    @precondition(lambda self: self.wal)
    @rule(index=_index)
    def another_server_writes_the_same_timeline(self, index: int) -> None:
        acknowledged: list[WalSegment] = []
        segment = self.wal[index % len(self.wal)]
        if self.open().layout.segment(segment) in self.damage:
            return
        try:
            append_wal(self.open(), [segment], acknowledged, server="another")
        except ConflictError:
            assert not acknowledged
            self.count("second servers refused")
        else:
            raise AssertionError("the WAL of two servers is in one place")

    @rule()
    def promote(self) -> None:
        self.timeline += 1

    @rule(mine=_files, theirs=_files)
    def two_at_once(self, mine: _Drawn, theirs: _Drawn) -> None:
        """Safety does not depend on the lease: two runs take turns, and both are whole."""
        first, second = self.new_run(mine, True), self.new_run(theirs, False)
        with self.excused():
            for run in (first, second):
                run.begin()
            for run in (first, second):
                run.store()
            for run in (second, first):
                run.commit()
            self.count("pairs of writers")
        self.settle(first, second)

    @rule()
    def second_writer(self) -> None:
        with hold_lease(self.open(), "backup") as lease:
            try:
                with hold_lease(self.open(), "backup"):
                    raise AssertionError("two runs hold the lease")
            except ConflictError:
                self.count("second writers refused")
            lease.check()

    @rule(files=_files)
    def give_up(self, files: _Drawn) -> None:
        """A collector takes a silent run for dead just before it commits."""
        run = self.new_run(files, True)
        with self.excused():
            run.begin()
            run.store()
            key = run.repository.layout.manifest(run.backup_id)
            self.open().create_json(Kind.MANIFEST, key, {"format": 1, "abandoned": True})
            self.given_up.append(run.backup_id)
            try:
                run.commit()
            except ConflictError:
                self.count("runs given up")
            else:
                raise AssertionError("a run that was given up has committed")
        self.settle(run)

    # What people do

    @precondition(lambda self: self.backups)
    @rule(index=_index)
    def verify(self, index: int) -> None:
        backup, repository, at = self.some_backup(index), self.open(), self.tick()
        hits = self.hits(backup)
        manifest_key = repository.layout.manifest(backup.backup_id)
        if manifest_key in hits:
            self.assert_named(manifest_key, self.refused(lambda: find_backup(repository, backup.backup_id)))
            return
        manifest = find_backup(repository, backup.backup_id)
        _looked, missing = check_objects(repository, manifest, Job())
        _read, damage = check_frames(repository, manifest, Job())
        found = "\n".join(missing + damage)
        assert bool(found) == bool(hits), f"{found!r} although the damage is {hits}"
        # Without its map nothing tells which pages of a pack a backup needs; that is found when the map is healed.
        masked = any("/maps/" in key for key in hits)
        for key in hits:
            if not (masked and "/packs/" in key and self.damage[key].how != "deleted"):
                self.assert_named(key, found)
        report = VerificationReport(backup.backup_id, VerifyLevel.FRAMES, not found, False, at, 1.0, 1)
        store_verification(repository, report)
        backup.keys.add(repository.layout.verified(backup.backup_id, at))
        self.count("verifications")

    @precondition(lambda self: self.encrypted)
    @rule(chance=st.integers(0, 30))
    def add_key(self, chance: int) -> None:
        """Rarely a passphrase, whose derivation is slow by design; the slots are alike."""
        secret = keyring.new_recovery_key()
        if chance == 0:
            slot = add_slot(self.bucket, self.key, secret, self.tick()).slot_id
        else:
            described = self.bucket.read(layout.REPOSITORY)
            slot, data = keyring.make_slot(described, self.key.master, secret, keyring.RECOVERY, self.tick())
            self.bucket.create(layout.key_slot(slot), data)
        self.secrets[slot] = secret
        assert unlock(self.bucket, secret, True).key == self.key

    @precondition(lambda self: self.encrypted)
    @rule(index=_index)
    def remove_key(self, index: int) -> None:
        slot = sorted(self.secrets)[index % len(self.secrets)]
        if len(self.secrets) == 1:
            self.refused(lambda: remove_slot(self.bucket, slot))
            return
        remove_slot(self.bucket, slot)
        secret = self.secrets.pop(slot)
        self.refused(lambda: unlock(self.bucket, secret, True))
        self.count("keys removed")

    # What happens to stores

    @precondition(lambda self: len(self.damage) < 2)
    @rule(index=_index, how=st.sampled_from(HOW), at=_index)
    def harm(self, index: int, how: str, at: int) -> None:
        """A backup without its manifest is withdrawn, not damaged, so that one does not vanish."""
        keys = [key for key in sorted(self.bucket.objects) if key not in self.damage]
        keys = [key for key in keys if key.startswith("clusters/") and "/leases/" not in key] + [script_key()]
        key = keys[index % len(keys)]
        may_vanish = not key.endswith("/manifest") and "/verified/" not in key and key != script_key()
        if key in self.damage or (how == "deleted" and not may_vanish):
            return
        damage = Damage.to(self.bucket, key, how, at, keys)
        if damage is not None:
            self.damage[key] = damage
            self.count("objects damaged")

    @precondition(lambda self: self.damage)
    @rule(index=_index)
    def heal(self, index: int) -> None:
        key = sorted(self.damage)[index % len(self.damage)]
        self.damage.pop(key).heal(self.bucket)
        self.count("objects healed")

    @rule(index=_index, at=_index)
    def harm_what_opens_it(self, index: int, at: int) -> None:
        keys = [layout.REPOSITORY, *(layout.key_slot(slot) for slot in sorted(self.secrets))]
        key = keys[index % len(keys)]
        damage = Damage.to(self.bucket, key, "flipped", at, keys)
        assert damage is not None
        secret = self.secrets.get(key.removeprefix(layout.KEYS), next(iter(self.secrets.values()), None))
        self.refused(lambda: unlock(self.bucket, secret, self.encrypted))
        damage.heal(self.bucket)
        assert unlock(self.bucket, secret, self.encrypted).key == self.key
        self.count("damaged keys refused")
