"""The promised import names for backups and recovery."""

from pgproof.backup import BackupConfig as BackupConfig
from pgproof.backup import BackupInfo as BackupInfo
from pgproof.backup import BackupManager as BackupManager
from pgproof.backup import BackupMethod as BackupMethod
from pgproof.backup import BackupType as BackupType
from pgproof.backup import PostgresConfig as PostgresConfig
from pgproof.backup import VerificationReport as VerificationReport
from pgproof.backup import VerifyLevel as VerifyLevel
from pgproof.recovery import RecoveryManager as RecoveryManager
from pgproof.recovery import RestoreReport as RestoreReport
from pgproof.scheduler import BackupScheduler as BackupScheduler
from pgproof.scheduler import ServiceOptions as ServiceOptions
