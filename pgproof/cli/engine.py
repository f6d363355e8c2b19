"""The engine's front doors, imported only when a command really needs them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from pgproof.cli.settings import load_settings

if TYPE_CHECKING:
    from pgproof.backup import BackupManager
    from pgproof.model.config import BackupConfig, PostgresConfig
    from pgproof.model.replication_config import ReplicationConfig
    from pgproof.recovery import RecoveryManager
    from pgproof.replica_manager import ReplicaManager


def open_backups(args: argparse.Namespace) -> BackupManager:
    """The backup manager for the command line's settings."""
    settings = load_settings(args, os.environ)
    from pgproof.backup import BackupManager

    return BackupManager(settings.postgres, settings.backup)


def backup_config(args: argparse.Namespace) -> BackupConfig:
    """The repository's configuration for the command line's settings."""
    return load_settings(args, os.environ).backup.completed(os.environ)


def open_postgres(args: argparse.Namespace) -> PostgresConfig:
    """The server of the command line's settings."""
    return load_settings(args, os.environ).postgres


def replication_config(args: argparse.Namespace) -> ReplicationConfig:
    """The replicas of the command line's settings."""
    return load_settings(args, os.environ).replication


def open_replicas(args: argparse.Namespace) -> ReplicaManager:
    """The manager of the replicas for the command line's settings."""
    settings = load_settings(args, os.environ)
    from pgproof.replica_manager import ReplicaManager

    return ReplicaManager(settings.postgres, settings.replication, settings.backup)


def open_recovery(args: argparse.Namespace) -> RecoveryManager:
    """The recovery manager for the command line's settings."""
    settings = load_settings(args, os.environ)
    from pgproof.backup import BackupManager
    from pgproof.recovery import RecoveryManager

    return RecoveryManager(settings.postgres, BackupManager(settings.postgres, settings.backup))
