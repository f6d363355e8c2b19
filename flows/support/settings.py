"""Which server and repository a run works with: stored blocks, or the environment where no name is given."""

from __future__ import annotations

import os

from prefect import runtime

from blocks import BackupRepository, PostgresServer, ReadReplicas
from flows.support.logs import prepare_logs
from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.service import handed_over
from pgproof.replica_manager import ReplicaManager
from pgproof.whoami import PROGRAM

_SECRET_OPTIONS = ("password", "token", "secret", "customer_key")


def backup_manager(server: str, repository: str) -> BackupManager:
    """The engine's front door for the blocks named `server` and `repository`.

    An empty name means the environment of this process: what the service hands over to its runs, else `PG*`, `BACKUP_*`
    and `AWS_*`. From here on the secrets are masked in the run's logs. Raises PreconditionError for a block that is not there.
    """
    postgres = postgres_config(server)
    config = backup_config(repository)
    prepare_logs(secrets_of(postgres, config))
    PROGRAM.set(f"prefect {runtime.flow_run.get_flow_name()} {runtime.flow_run.get_id()}")
    return BackupManager(postgres, config)


def replica_manager(server: str, replicas: str, cluster: str, repository: str = "") -> ReplicaManager:
    """The front door for the replicas of the blocks of these names, or of the environment; secrets are masked as above.

    The repository is of use where one is named, and for whom to notify. Raises PreconditionError for a block that is
    not there.
    """
    postgres, config = postgres_config(server), backup_config(repository)
    prepare_logs(secrets_of(postgres, config))
    PROGRAM.set(f"prefect {runtime.flow_run.get_flow_name()} {runtime.flow_run.get_id()}")
    return ReplicaManager(postgres, replication_config(replicas), config, cluster=cluster)


def postgres_config(server: str) -> PostgresConfig:
    if not server:
        given = handed_over(os.environ)
        return PostgresConfig.from_env() if given is None else given[0]
    try:
        block = PostgresServer.load(server)
    except ValueError as error:
        raise _missing("PostgreSQL Server", server) from error
    assert isinstance(block, PostgresServer)  # load() is typed as maybe awaitable
    return block.config()


def backup_config(repository: str) -> BackupConfig:
    if not repository:
        given = handed_over(os.environ)
        return BackupConfig.from_env() if given is None else given[1]
    try:
        block = BackupRepository.load(repository)
    except ValueError as error:
        raise _missing("Backup Repository", repository) from error
    assert isinstance(block, BackupRepository)  # load() is typed as maybe awaitable
    return block.config()


def replication_config(replicas: str) -> ReplicationConfig:
    """The replicas of the block of this name, or of the environment. Their passwords are masked in the run's logs from here on.

    Raises PreconditionError for a block that is not there.
    """
    if not replicas:
        given = handed_over(os.environ)
        found = ReplicationConfig.from_env() if given is None else given[2]
    else:
        try:
            block = ReadReplicas.load(replicas)
        except ValueError as error:
            raise _missing("Read Replicas", replicas) from error
        assert isinstance(block, ReadReplicas)  # load() is typed as maybe awaitable
        found = block.config()
    prepare_logs({each.password for each in found.replicas if each.password})
    return found


def secrets_of(postgres: PostgresConfig, config: BackupConfig) -> set[str]:
    """Every value that must not be printed."""
    options = {**postgres.options, **config.s3_options}
    hidden = [value for key, value in options.items() if any(word in key.lower() for word in _SECRET_OPTIONS)]
    return {
        value
        for value in (
            postgres.password,
            config.passphrase,
            config.s3_secret_access_key,
            config.notify_url,
            *hidden,
        )
        if value
    }


def _missing(kind: str, name: str) -> PreconditionError:
    return PreconditionError(
        f"there is no usable {kind} block of this name",
        hint="create it in the UI or with `python deployments/bootstrap.py --blocks-from-env`; "
        "an empty name means the worker's environment",
        name=name,
    )
