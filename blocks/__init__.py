"""What is configured: Prefect blocks, each a form that yields one engine value."""

from blocks.postgres import PostgresServer
from blocks.replicas import ReadReplicas
from blocks.repository import BackupRepository

__all__ = ["BackupRepository", "PostgresServer", "ReadReplicas"]
