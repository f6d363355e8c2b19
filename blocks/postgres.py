"""The form for one PostgreSQL server. It opens no connection."""

from __future__ import annotations

from typing import Literal

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, SecretStr

from pgproof.model.config import PostgresConfig

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresServer(Block):
    """
    How to reach one PostgreSQL server.

    Anything left empty is decided by libpq on the worker: its environment variables, its
    service file and its password file.

    Attributes:
        host: Host name or socket directory.
        port: Port of the server.
        user: Role to connect as; a physical backup needs its REPLICATION attribute.
        password: Password of the role.
        database: Database for ordinary connections.
        sslmode: TLS policy of libpq.
        options: Further libpq connection parameters.

    Example:
        Load a stored server and hand it to the engine:
        ```python
        from blocks import PostgresServer

        server = PostgresServer.load("BLOCK_NAME")
        config = server.config()
        ```
    """

    _block_type_name = "PostgreSQL Server"
    _block_type_slug = "postgres-server"
    _logo_url = "https://www.postgresql.org/media/img/about/press/elephant.png"  # type: ignore[assignment]
    _documentation_url = "https://www.postgresql.org/docs/current/libpq-connect.html"  # type: ignore[assignment]

    host: str | None = Field(default=None, description="Host name or socket directory.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Port; libpq's default is 5432.")
    user: str | None = Field(
        default=None,
        description="Role to connect as; physical backups need its REPLICATION attribute.",
    )
    password: SecretStr | None = Field(
        default=None, description="Leave empty for peer authentication, a certificate or .pgpass."
    )
    database: str | None = Field(default=None, description="Database for ordinary connections.")
    sslmode: SslMode | None = Field(
        default=None, title="SSL mode", description="TLS policy; verify-full is the safe one over a network."
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Further options",
        description='Further libpq parameters as JSON, such as {"sslrootcert": "/etc/ssl/pg.pem"}.',
    )

    def config(self) -> PostgresConfig:
        """The engine's value for this server."""
        options = {key: str(value) for key, value in self.options.get_secret_value().items()}
        if self.sslmode:
            options["sslmode"] = self.sslmode
        return PostgresConfig(
            host=self.host or None,
            port=self.port,
            user=self.user or None,
            password=self.password.get_secret_value() if self.password else None,
            database=self.database or None,
            options=options,
        )

    @classmethod
    def from_config(cls, config: PostgresConfig) -> PostgresServer:
        """The form that says the same as `config`."""
        options = dict(config.options)
        return cls.model_validate(
            {
                "host": config.host,
                "port": config.port,
                "user": config.user,
                "password": config.password,
                "database": config.database,
                "sslmode": options.pop("sslmode", None),
                "options": options,
            }
        )
