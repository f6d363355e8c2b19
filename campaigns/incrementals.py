"""Chains of incrementals over seeded upheavals, in both ways: each equals the server page by page.

After every backup its relation files are held against those of the server, which is at rest; each difference
needs a written rule (tests/support/synthetic.py). The last of each chain is restored and asked.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from dataclasses import replace
from pathlib import Path

from campaigns.campaign import Campaign
from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.model.config import BackupConfig, BackupType, ChangeDetection
from pgproof.model.job import Job
from pgproof.model.report import BackupInfo
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.fingerprint import fingerprint
from tests.support.postgres import Cluster, find_bin
from tests.support.synthetic import compare_with_server
from tests.support.upheaval import Upheaval

_LENGTH = 50
_SETTINGS = {"autovacuum": False, "summarize_wal": True, "bgwriter_lru_maxpages": 0}


def run(campaign: Campaign) -> None:
    for major in (17, 18):
        for way in ChangeDetection:
            chance = campaign.random(f"{major} {way}")
            counts = one_chain(campaign.place, major, way, campaign.times(_LENGTH, least=4), chance)
            for what, number in counts.items():
                campaign.count(f"{way}: {what}", number)
    for way in ChangeDetection:
        campaign.require(f"{way}: backups equal to the server", 2 * _LENGTH, least=8)
        campaign.require(f"{way}: pages compared", 100_000, least=1000)


def one_chain(
    place: Path, major: int, way: ChangeDetection, length: int, chance: random.Random, steps: int = 3
) -> Counter[str]:
    """A full backup and `length` incremental ones after some steps each; returns facts worth counting."""
    counts: Counter[str] = Counter()
    with Cluster(major, settings=_SETTINGS) as cluster:
        config = new_repository(
            place / f"{major}-{way}-{secrets.token_hex(4)}",
            change_detection=way,
            bin_dir=str(find_bin(major)),
        )
        upheaval = Upheaval(cluster, chance)
        info = _take(cluster, config, BackupType.FULL)
        for _ in range(length):
            upheaval.steps(chance.randrange(1, 2 * steps))
            info = _take(cluster, config, BackupType.INCREMENTAL)
            counts += _judged(cluster, config, info)
            if chance.random() < 0.4:
                # Now and then the base is audited: it told the truth.
                upheaval.steps(chance.randrange(0, steps))
                compared = replace(config, change_detection=ChangeDetection.COMPARE)
                info = _take(cluster, compared, BackupType.INCREMENTAL)
                counts += _judged(cluster, config, info)
        target = place / f"restored-{secrets.token_hex(4)}"
        space = machine.new_dir("restored-space", owned_by_service=True)
        restore_cluster(
            config,
            info.backup_id,
            target,
            tablespaces={str(upheaval.tablespace): str(space)},
            recover=True,
            owner=None,
            job=Job(),
        )
        with Cluster.adopt(target, major) as restored:
            machine.wait_until(
                lambda: restored.psql("SELECT pg_is_in_recovery()") == "f",
                "the restored server to be promoted",
            )
            assert fingerprint(restored.connect) == fingerprint(cluster.connect)
            for table in range(5):
                assert restored.psql(f"SELECT count(*) FROM pg_check_visible('t{table}')") == "0"
            counts["chains restored"] += 1
    return counts


def _take(cluster: Cluster, config: BackupConfig, kind: BackupType) -> BackupInfo:
    info = take_backup(cluster.config(), config, kind, Job())
    assert info.status == "ok", info.findings
    if kind is not BackupType.FULL:
        assert info.change_detection == config.change_detection, info.findings
    return info


def _judged(cluster: Cluster, config: BackupConfig, info: BackupInfo) -> Counter[str]:
    repository = open_repository(config)
    manifest = repository.read_manifest(info.backup_id)
    assert manifest is not None
    found = compare_with_server(repository, manifest, cluster.data_dir)
    assert not found.wrong, found.wrong[:10]
    assert not manifest.pages.get("omitted"), manifest.findings
    return Counter(
        {
            "backups equal to the server": 1,
            "pages compared": found.pages,
            **{f"explained: {rule}": number for rule, number in found.explained.items()},
            **{f"pages {how}": number for how, number in manifest.pages.items()},
        }
    )
