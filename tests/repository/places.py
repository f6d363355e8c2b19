"""Repositories to try things on, and whether PostgreSQL starts on what was restored from them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from pgproof.actions import manage_keys
from pgproof.actions.init_repository import init_repository
from pgproof.model.config import BackupConfig
from pgproof.repository.keyring import PASSPHRASE
from tests.support import machine
from tests.support.postgres import find_bin


def new_repository(root: Path, *, encryption: bool = True, **settings: object) -> BackupConfig:
    """Make a repository in `root`; return the configuration that opens it.

    It opens quickly: its only key is the recovery key, which needs no slow derivation.
    """
    if not encryption:
        config = BackupConfig.from_mapping({"backup_dir": str(root), "encryption": False, **settings})
        init_repository(config)
        return config
    recovery_key = init_repository(
        BackupConfig(backup_dir=str(root), passphrase="of the operator")
    ).recovery_key
    config = BackupConfig.from_mapping({"backup_dir": str(root), "passphrase": recovery_key, **settings})
    for slot in manage_keys.list_keys(config):
        if slot.kind == PASSPHRASE:
            manage_keys.remove_key(config, slot.slot_id)
    return config


def starts(target: Path) -> bool:
    """Whether PostgreSQL starts on these files as they are; it is tried without reading our configuration."""
    if not target.exists():
        return False
    socket_dir = machine.new_dir("s", owned_by_service=True)
    command = [
        str(find_bin(18) / "postgres"),
        "-D",
        str(target),
        "-c",
        "listen_addresses=",
        "-c",
        "port=5432",
    ]
    command += ["-c", f"unix_socket_directories={socket_dir}", "-c", "fsync=off"]
    process = subprocess.Popen(
        machine.as_service_user(command, die_with_us="QUIT"),
        cwd="/",
        env=machine.environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )

    def ready() -> bool:
        try:
            # Of an earlier server, if it names another process; a server that gives up removes it.
            lines = (target / "postmaster.pid").read_text().splitlines() or [""]
        except FileNotFoundError:
            return False
        return lines[0] == str(process.pid) and lines[7:8] in (["ready   "], ["standby "])

    try:
        machine.wait_until(lambda: process.poll() is not None or ready(), "the server to decide")
        return process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
