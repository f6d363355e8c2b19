"""The form for the replicas of one PostgreSQL server. It opens no connection."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from pgproof.model.replication_config import ReplicationConfig


class ReadReplicas(Block):
    """
    The replicas of one PostgreSQL server: where they are, how far they may be behind, how a failover may go.

    What is left empty is taken from the server's block, or is the engine's default.

    Attributes:
        hosts: The replicas, each as host or host:port.
        user: Role to connect as.
        password: Password of the role.
        max_lag_bytes: How much WAL a replica may be behind.
        max_lag_seconds: How many seconds a replica may be behind.
        fence_command: Shell command that ends the old primary before another takes over.
        patroni_urls: REST endpoints of a Patroni that manages this cluster.

    Example:
        Load stored replicas and hand them to the engine:
        ```python
        from blocks import ReadReplicas

        config = ReadReplicas.load("BLOCK_NAME").config()
        ```
    """

    _block_type_name = "Read Replicas"
    _block_type_slug = "read-replicas"
    _logo_url = "https://www.postgresql.org/media/img/about/press/elephant.png"  # type: ignore[assignment]
    _documentation_url = "https://www.postgresql.org/docs/current/warm-standby.html"  # type: ignore[assignment]

    hosts: list[str] = Field(
        default_factory=list, description="Each as host or host:port, such as replica1:5432."
    )
    user: str | None = Field(default=None, description="Empty for the one of the server's block.")
    password: SecretStr | None = Field(default=None, description="Password of this user.")
    max_lag_bytes: int | None = Field(
        default=None, ge=0, title="Lag limit, bytes", description="64 MiB if empty."
    )
    max_lag_seconds: float | None = Field(
        default=None, gt=0, title="Lag limit, seconds", description="30 if empty."
    )
    fence_command: str | None = Field(
        default=None,
        description="Run by the worker's shell, with FENCE_HOST and FENCE_PORT, to end the old primary before a failover.",
    )
    patroni_urls: list[str] = Field(
        default_factory=list,
        title="Patroni URLs",
        description="Where Patroni manages the cluster: its REST endpoints. Then nothing is decided here.",
    )

    @classmethod
    def from_config(cls, config: ReplicationConfig) -> ReadReplicas:
        """The form that says the same as `config`, whose replicas are those of READ_REPLICA_HOSTS: named by their places, and
        with one user."""
        first = config.replicas[0] if config.replicas else None
        return cls.model_validate(
            {
                "hosts": [each.id for each in config.replicas],
                "user": first.username if first else None,
                "password": first.password if first else None,
                "max_lag_bytes": config.max_lag_bytes,
                "max_lag_seconds": config.max_lag_seconds,
                "fence_command": config.fence_command,
                "patroni_urls": list(config.patroni_urls),
            }
        )

    def config(self) -> ReplicationConfig:
        """The engine's value for these replicas. Raises PreconditionError for what cannot be meant."""
        values = {
            "hosts": self.hosts,
            "user": self.user,
            "password": self.password.get_secret_value() if self.password else None,
            "max_lag_bytes": self.max_lag_bytes,
            "max_lag_seconds": self.max_lag_seconds,
            "fence_command": self.fence_command,
            "patroni_urls": self.patroni_urls,
        }
        return ReplicationConfig.from_mapping(
            {key: value for key, value in values.items() if value is not None}
        )
