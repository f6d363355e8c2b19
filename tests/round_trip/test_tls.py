"""Backups over TLS whose certificate is checked, with a service file and a password file, as production should have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.cli.main import run
from tests.bad_input.tls import give_trusted_certificate
from tests.support.postgres import SUPERUSER, SUPERUSER_PASSWORD, ClusterFactory, find_bin


def test_a_service_with_verify_full_and_a_password_file_is_all_that_is_needed(
    cluster_factory: ClusterFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = cluster_factory(
        17, hba=["hostnossl all all all reject", "hostnossl replication all all reject"]
    )
    trusted = give_trusted_certificate(cluster, "localhost", tmp_path)
    service = tmp_path / "services"
    lines = [f"port={cluster.port}", f"user={SUPERUSER}", "dbname=postgres"]
    lines += [
        "sslmode=verify-full",
        f"sslrootcert={trusted}",
        "channel_binding=require",
        "gssencmode=disable",
    ]
    good, wrong = (["host=localhost", "hostaddr=127.0.0.1"], ["host=127.0.0.1"])
    service.write_text("\n".join(["[good]", *good, *lines, "[wrong]", *wrong, *lines, ""]))
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:{cluster.port}:*:{SUPERUSER}:{SUPERUSER_PASSWORD}\n")
    passwords.chmod(0o600)
    for name, value in {
        "PGSERVICEFILE": str(service),
        "PGSERVICE": "good",
        "PGPASSFILE": str(passwords),
        "BACKUP_DIR": str(tmp_path / "repo"),
        "BACKUP_ENCRYPTION": "false",
        "PATH": f"{find_bin(17)}:/usr/bin:/bin",
    }.items():
        monkeypatch.setenv(name, value)
    assert run(["init", "--no-encryption"]) == 0
    assert run(["create"]) == 0
    # pg_dump gets the same, and not by its arguments.
    assert run(["create", "--method", "logical", "--cluster", "dumps"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("PGSERVICE", "wrong")
    assert run(["create"]) == 3, "the certificate names another host"
    assert "certificate" in capsys.readouterr().err
    monkeypatch.setenv("PGSERVICE", "good")
    trusted.write_bytes(b"")
    assert run(["create"]) == 3, "nobody is trusted"
