"""PostgreSQL backup and recovery that proves itself.

`from pgproof import BackupManager, RecoveryManager, BackupScheduler, BackupConfig, BackupMethod, BackupType, PostgresConfig,
VerifyLevel`.
Names are imported when first used, because the command line must start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgproof.backup import BackupManager as BackupManager
    from pgproof.model.config import BackupConfig as BackupConfig
    from pgproof.model.config import BackupMethod as BackupMethod
    from pgproof.model.config import BackupType as BackupType
    from pgproof.model.config import PostgresConfig as PostgresConfig
    from pgproof.model.config import VerifyLevel as VerifyLevel
    from pgproof.recovery import RecoveryManager as RecoveryManager
    from pgproof.scheduler import BackupScheduler as BackupScheduler

__version__ = "0.1.0"

_HOMES = {
    "BackupManager": "pgproof.backup",
    "RecoveryManager": "pgproof.recovery",
    "BackupScheduler": "pgproof.scheduler",
    "BackupConfig": "pgproof.model.config",
    "BackupMethod": "pgproof.model.config",
    "BackupType": "pgproof.model.config",
    "PostgresConfig": "pgproof.model.config",
    "VerifyLevel": "pgproof.model.config",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
