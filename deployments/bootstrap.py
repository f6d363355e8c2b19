"""Make a Prefect server ready for pgproof. Running it again changes nothing that is already right.

python deployments/bootstrap.py                     block types, work pool, deployments
python deployments/bootstrap.py --blocks-from-env   and the blocks `main` from PG*, BACKUP_*, AWS_*, READ_REPLICA_*
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from blocks import BackupRepository, PostgresServer, ReadReplicas
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.replication_config import ReplicationConfig

ROOT = Path(__file__).resolve().parent.parent
WORK_POOL = "pgproof"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--blocks-from-env", action="store_true", help="create or update the blocks from the environment"
    )
    parser.add_argument("--block-name", default="main", help="name of those blocks (default: main)")
    parser.add_argument("--no-deploy", action="store_true", help="leave the deployments as they are")
    options = parser.parse_args(arguments)
    try:
        bootstrap(options.block_name if options.blocks_from_env else None, deploy=not options.no_deploy)
    except EngineError as error:
        sys.exit(f"error: {error}")


def bootstrap(block_name: str | None, *, deploy: bool) -> None:
    """Register, create and deploy; with `block_name`, also save the blocks of that name."""
    if get_current_settings().api.url is None:
        raise PreconditionError(
            "no Prefect server is configured",
            hint="set PREFECT_API_URL, for example to http://127.0.0.1:4200/api",
        )
    for kind in (PostgresServer, BackupRepository, ReadReplicas):
        kind.register_type_and_schema()
        print(f"block type {kind.get_block_type_slug()}: registered")
    with get_client(sync_client=True) as client:
        print(f"work pool {WORK_POOL}: {_ensure_work_pool(client)}")
    if block_name:
        for slug, block in blocks_from_env(block_name, os.environ).items():
            block.save(slug.partition("/")[2], overwrite=True)
            print(f"block {slug}: saved")
    if deploy:
        _deploy()


def blocks_from_env(name: str, environ: Mapping[str, str]) -> dict[str, Block]:
    """The blocks that say the same as the environment, by slug and name.

    The keys of a bucket become a block of their own, so that they can be replaced without touching
    the repository's. Raises PreconditionError when the environment names no repository.
    """
    config = BackupConfig.from_env(environ)
    if not (config.backup_dir or config.s3_bucket or config.repository_url):
        raise PreconditionError(
            "the environment names no repository",
            hint="set BACKUP_DIR, AWS_S3_BUCKET or BACKUP_REPOSITORY_URL",
        )
    blocks: dict[str, Block] = {}
    credentials = None
    if config.s3_access_key_id:
        credentials = AwsCredentials(
            aws_access_key_id=config.s3_access_key_id,
            aws_secret_access_key=SecretStr(config.s3_secret_access_key or ""),
            aws_session_token=environ.get("AWS_SESSION_TOKEN") or None,
            region_name=config.s3_region,
            aws_client_parameters=AwsClientParameters(endpoint_url=config.s3_endpoint),
        )
        blocks[f"aws-credentials/{name}-repository"] = credentials
    blocks[f"postgres-server/{name}"] = PostgresServer.from_config(PostgresConfig.from_env(environ))
    blocks[f"backup-repository/{name}"] = BackupRepository.from_config(config, credentials)
    if environ.get("READ_REPLICA_HOSTS"):
        blocks[f"read-replicas/{name}"] = ReadReplicas.from_config(ReplicationConfig.from_env(environ))
    return blocks


def _ensure_work_pool(client: SyncPrefectClient) -> str:
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template)
        )
        return "created"
    return "exists"


def _deploy() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise PreconditionError(
            "the deployments of prefect.yaml were not all created",
            hint="read the output above; what is listed before the error has been applied",
            status=done.returncode,
        )


if __name__ == "__main__":
    main()
