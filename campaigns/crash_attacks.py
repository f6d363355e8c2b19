"""Every command that the crash campaign kills, by its name."""

from __future__ import annotations

from campaigns import crash_cleanup_commands as keeping
from campaigns import crash_commands as commands
from campaigns import crash_database_commands as databases
from campaigns import crash_wal_commands as wal
from campaigns.crash_commands import Attack

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        commands.Create,
        commands.CreateIncremental,
        commands.CreateDifferential,
        commands.CreateAfterKill,
        commands.FirstCreate,
        commands.MirroredCreate,
        commands.Restore,
        commands.RestoreWithoutRecovery,
        commands.VerifyFrames,
        commands.VerifyStart,
        commands.ChangeKey,
        commands.AddKey,
        commands.RemoveKey,
        commands.Init,
        databases.CreateLogical,
        databases.CreateLogicalIncremental,
        databases.RestoreDatabase,
        databases.RestoreDatabaseFromPhysical,
        databases.AddMissing,
        databases.Clone,
        databases.FastClone,
        databases.Rescue,
        databases.RescueFromPhysical,
        wal.WalPush,
        keeping.Cleanup,
        keeping.Keep,
    )
}
