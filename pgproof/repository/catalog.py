"""Which backups exist: the manifests are the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import LOGICAL, Manifest, is_backup_id
from pgproof.model.pin import FOR_GOOD
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.report import BackupInfo, Finding, VerificationReport, VerificationSummary
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.repository.bucket import Bucket
from pgproof.repository.layout import ClusterLayout
from pgproof.repository.pins import read_pin
from pgproof.repository.read_ahead import ReadAhead
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

_POSITION = re.compile(r"[0-9A-F]{16}-")


def list_backups(repository: Repository, backup_type: BackupType | None = None) -> list[BackupInfo]:
    """Every committed backup, oldest first, with its best verification."""
    verifications: dict[str, list[str]] = {}
    pins: dict[str, list[str]] = {}
    committed: list[str] = []
    prefix = repository.layout.backups
    for info in repository.bucket.list(prefix):
        backup_id, _slash, rest = info.key.removeprefix(prefix).partition("/")
        if not is_backup_id(backup_id):
            continue
        if rest == "manifest":
            committed.append(backup_id)
        elif rest.startswith("verified/"):
            verifications.setdefault(backup_id, []).append(info.key)
        elif rest.startswith("pins/"):
            pins.setdefault(backup_id, []).append(info.key)
    wanted = sorted(b for b in committed if backup_type is None or f"-{backup_type}-" in b)
    keys: list[str] = []
    for each in wanted:
        keys += (repository.layout.manifest(each), *sorted(verifications.get(each, [])))
        keys += sorted(pins.get(each, []))[-1:]  # the newest one counts
    with ReadAhead(repository.bucket, keys) as bucket:
        ahead = Repository(bucket, repository.key, repository.cluster, repository.mirror)
        infos = (_described(ahead, each, verifications.get(each, []), pins.get(each, [])) for each in wanted)
        return [info for info in infos if info is not None]


def _described(
    repository: Repository, backup_id: str, verifications: list[str], pins: list[str]
) -> BackupInfo | None:
    try:
        manifest = repository.read_manifest(backup_id)
    except DataError as error:
        return _damaged(repository, backup_id, error)
    if manifest is None:
        return None
    try:
        info = manifest.info(_summary(repository, verifications))
    except DataError as error:
        finding = Finding("damaged-object", str(error).partition("\n")[0])
        info = replace(manifest.info(), findings=(*manifest.findings, finding))
    pin = read_pin(repository, pins)
    return info if pin is None else replace(info, pinned_until=pin.until or FOR_GOOD)


def find_backup(repository: Repository, wanted: str, method: str | None = None) -> Manifest:
    """The manifest of a backup by its id, a unique beginning of it, or `latest`, which is the newest of `method` if given.

    Raises PreconditionError for an id that does not exist, is not unique or of another method, DataError if it is damaged.
    """
    ids = sorted(committed_ids(repository.bucket, repository.layout))
    matches = (
        ids[::-1]
        if wanted == "latest"
        else [b for b in ids if b == wanted or (wanted and b.startswith(wanted))]
    )
    if wanted != "latest" and wanted not in matches and len(matches) > 1:
        raise PreconditionError(
            "this begins the id of several backups",
            hint="give more of the id",
            wanted=wanted,
            matches=", ".join(matches[:3]),
        )
    for backup_id in [wanted] if wanted in matches else matches:
        manifest = repository.read_manifest(backup_id)
        if manifest is None:
            continue
        if method in (None, manifest.method):
            return manifest
        if wanted != "latest":
            raise _of_another_method(manifest)
    kind = f"{method} backup" if method and ids else "backup"
    raise PreconditionError(
        f"there is no {kind} yet" if wanted == "latest" else "there is no such backup",
        hint="take one with `pgproof create`" if wanted == "latest" else "`pgproof list` shows them all",
        wanted=wanted,
        cluster=repository.cluster,
    )


def find_dump(repository: Repository, wanted: str | None, target: RecoveryTarget | None) -> Manifest | None:
    """The manifest if `wanted` is a logical backup, else None: a physical one is meant, or one that leads to `target`.

    Raises what `find_backup` does, and PreconditionError for a target that a dump cannot reach.
    """
    if wanted is None or (wanted == "latest" and target is not None):
        return None
    manifest = find_backup(repository, wanted)
    if manifest.method != LOGICAL:
        return None
    if target is not None and target.kind is not TargetKind.BACKUP_END:
        raise PreconditionError(
            "a logical backup holds its databases as they were at one moment",
            hint="leave the target out, or name no backup: then a physical one that leads there is picked",
            backup=manifest.backup_id,
            moment=f"{manifest.started_at:%Y-%m-%d %H:%M:%S} UTC",
            target=target,
        )
    return manifest


def _of_another_method(manifest: Manifest) -> PreconditionError:
    if manifest.method == LOGICAL:
        return PreconditionError(
            "a logical backup holds databases and no cluster",
            hint=f"restore a database into a running server: pgproof restore {manifest.backup_id} --target DB",
            backup=manifest.backup_id,
        )
    return PreconditionError(
        "this is no logical backup",
        hint="name a logical backup: `pgproof list` tells",
        backup=manifest.backup_id,
    )


def store_verification(repository: Repository, report: VerificationReport) -> None:
    """Keep a verification's report beside its backup."""
    key = repository.layout.verified(report.backup_id, report.started_at)
    repository.create_json(Kind.VERIFICATION, key, {"format": 1, **report.to_json()})


def refutation(repository: Repository, backup_id: str) -> str:
    """What an audit has shown to be wrong in a backup that was whole when it was stored; empty if nothing was.

    A report that cannot be read says nothing: it must not stand between anybody and a restore, and `verify` names it.
    """
    for info in repository.bucket.list(repository.layout.verifications(backup_id)):
        try:
            report = repository.read_json(Kind.VERIFICATION, info.key)
        except DataError:
            continue
        if _refuted(report):
            damage = report.get("damage")
            return str(damage[0]) if isinstance(damage, list) and damage else "an audit found it to be wrong"
    return ""


def store_fingerprint(repository: Repository, fingerprint: SourceFingerprint) -> None:
    """Keep what the source held at one point: any backup from before it can be compared with that."""
    key = repository.layout.fingerprint(fingerprint.lsn, fingerprint.taken_at)
    repository.create_json(Kind.FINGERPRINT, key, {"format": 1, **fingerprint.to_json()})


def find_fingerprint(repository: Repository, wanted: str, system_identifier: str) -> SourceFingerprint:
    """The one at this LSN, or the `latest` of the same cluster. Raises PreconditionError if there is none."""
    prefix = repository.layout.fingerprints
    lsn = None if wanted == "latest" else _lsn(wanted)
    for key in sorted((info.key for info in repository.bucket.list(prefix)), reverse=True):
        if lsn is not None and not key.startswith(f"{prefix}{lsn.value:016X}-"):
            continue
        found = SourceFingerprint.from_json(repository.read_json(Kind.FINGERPRINT, key))
        if found.system_identifier == system_identifier:
            return found
    raise PreconditionError(
        "there are no fingerprints of the source at this point",
        hint="take some from the running server: --against-source",
        wanted=wanted,
    )


def fingerprint_positions(repository: Repository) -> list[Lsn]:
    """Where fingerprints of a source were taken."""
    prefix = repository.layout.fingerprints
    names = (info.key.removeprefix(prefix) for info in repository.bucket.list(prefix))
    return [Lsn(int(name[:16], 16)) for name in names if _POSITION.match(name)]


def _lsn(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError:
        raise PreconditionError("not an LSN", hint="write it as 16/B374D848, or latest", lsn=text) from None


def committed_ids(bucket: Bucket, layout: ClusterLayout) -> list[str]:
    """The ids of all backups that have a manifest, even one that says abandoned or cannot be read."""
    prefix = layout.backups
    parts = (info.key.removeprefix(prefix).split("/") for info in bucket.list(prefix))
    return [part[0] for part in parts if part[1:] == ["manifest"] and is_backup_id(part[0])]


def _damaged(repository: Repository, backup_id: str, error: DataError) -> BackupInfo:
    """A backup whose manifest cannot be read is shown, with what its id tells, and never counts as good."""
    started, kind, _nonce = backup_id.split("-")
    at = datetime.strptime(started, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return BackupInfo(
        backup_id=backup_id,
        cluster=repository.cluster,
        type=BackupType(kind),
        method="unknown",
        status="damaged",
        parent_id=None,
        started_at=at,
        finished_at=at,
        size_bytes=0,
        stored_bytes=0,
        start_lsn=Lsn(0),
        stop_lsn=Lsn(0),
        timeline=0,
        server_version="",
        system_identifier="",
        change_detection="unknown",
        findings=(Finding("damaged-object", str(error).partition("\n")[0], True),),
    )


def summarise(repository: Repository, keys: list[str]) -> VerificationSummary | None:
    """The verification that counts among the reports of a backup; those that cannot be read say nothing here."""
    found = []
    for key in sorted(keys):
        try:
            report = repository.read_json(Kind.VERIFICATION, key)
            found.append((_parse_summary(key, report), _refuted(report)))
        except DataError:
            continue
    return _counting(found)


def _summary(repository: Repository, keys: list[str]) -> VerificationSummary | None:
    reports = [(key, repository.read_json(Kind.VERIFICATION, key)) for key in sorted(keys)]
    return _counting([(_parse_summary(key, report), _refuted(report)) for key, report in reports])


def _counting(reports: Iterable[tuple[VerificationSummary, bool]]) -> VerificationSummary | None:
    """The newest failed verification since the best passed one, else that best one; one that refuted it for ever."""
    best: VerificationSummary | None = None
    for found, refuted in reports:
        if refuted:
            return found
        if best is None or not found.ok or not best.ok or found.level.includes(best.level):
            best = found
    return best


def _refuted(report: dict[str, Any]) -> bool:
    return report.get("ok") is False and report.get("refuted") is True


def _parse_summary(key: str, value: dict[str, Any]) -> VerificationSummary:
    try:
        at, ok = datetime.fromisoformat(value["started_at"]), value["ok"]
        if at.tzinfo is None or not 1970 <= at.year < 9999 or not isinstance(ok, bool):
            raise ValueError("not a time or not a yes or no")
        return VerificationSummary(VerifyLevel(value["level"]), at, ok)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("a verification's report is damaged", key=key, reason=repr(error)[:200]) from error
