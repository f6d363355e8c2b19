"""What is configured, as values: the server to back up and the repository its backups go to.

Reading files and opening connections happens elsewhere; here the environment is an argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from pgproof.errors import PreconditionError
from pgproof.model.objectives import Objectives
from pgproof.model.retention_policy import RetentionPolicy, policy_of
from pgproof.model.schedules import DIFFERENTIAL, FULL, INCREMENTAL, Schedule, schedule_of

_CLUSTER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}\Z")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class BackupType(StrEnum):
    FULL = "full"
    DIFFERENTIAL = "differential"
    INCREMENTAL = "incremental"


class BackupMethod(StrEnum):
    """The whole cluster over replication, or databases by pg_dump; AUTO is the first where the server allows it."""

    AUTO = "auto"
    PHYSICAL = "physical"
    LOGICAL = "logical"


class ChangeDetection(StrEnum):
    """How unchanged pages are found: by comparing all of them, or by the server's WAL summaries."""

    COMPARE = "compare"
    SUMMARIES = "summaries"


class VerifyLevel(StrEnum):
    """How far a verification goes; each level includes the ones before it."""

    OBJECTS = "objects"
    FRAMES = "frames"
    START = "start"
    FULL = "full"

    def includes(self, other: VerifyLevel) -> bool:
        levels = list(VerifyLevel)
        return levels.index(self) >= levels.index(other)


# libpq parameter keywords by the environment variables libpq reads them from
# (PostgreSQL documentation, "libpq: Environment Variables").
_LIBPQ_VARIABLES = {
    "PGHOST": "host",
    "PGPORT": "port",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGDATABASE": "database",
    "PGHOSTADDR": "hostaddr",
    "PGPASSFILE": "passfile",
    "PGSERVICE": "service",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCRL": "sslcrl",
    "PGCHANNELBINDING": "channel_binding",
    "PGGSSENCMODE": "gssencmode",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGREQUIREAUTH": "require_auth",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """How to reach one PostgreSQL server.

    Anything left out is decided by libpq itself (its environment variables, service file and
    password file). `options` holds further libpq parameters, such as `sslmode` or `service`.
    The user needs the REPLICATION attribute; the database is used for ordinary connections.
    """

    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read libpq's variables (`PGHOST`, `PGSERVICE`, …) from `environ`, by default the process's own.

        Raises PreconditionError for what is not a port.
        """
        if environ is None:
            import os

            environ = os.environ
        found = {keyword: environ[name] for name, keyword in _LIBPQ_VARIABLES.items() if environ.get(name)}
        return cls.from_mapping(found, source="PGPORT")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "port") -> Self:
        """Build from libpq keywords (`database` or `dbname`, `host`, …)."""
        rest = {key: str(value) for key, value in values.items() if value is not None}
        ports = rest.pop("port", "")
        if any(each and not _is_port(each) for each in ports.split(",")):
            raise PreconditionError(
                "the port is not a number from 1 to 65535",
                hint=f"set {source} to a number such as 5432",
                port=ports,
            )
        port = ports if _is_port(ports) else None
        if ports and port is None:
            rest["port"] = ports  # one for each host of a list
        database = rest.pop("dbname", None)
        return cls(
            host=rest.pop("host", None),
            port=int(port) if port else None,
            user=rest.pop("user", None),
            password=rest.pop("password", None),
            database=rest.pop("database", database),
            options=rest,
        )

    def parameters(self) -> dict[str, str]:
        """The libpq parameters of this configuration; only what was given."""
        own = {
            "host": self.host,
            "port": None if self.port is None else str(self.port),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
        }
        return {**self.options, **{key: value for key, value in own.items() if value is not None}}

    def __str__(self) -> str:
        """Host, port and user, fit for messages: never the password."""
        where = self.host or self.options.get("service") or "the default host"
        port = f":{self.port}" if self.port else ""
        return f"{self.user}@{where}{port}" if self.user else f"{where}{port}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535


@dataclass(frozen=True, slots=True)
class UserCheck:
    """A question a restored database must answer with yes.

    `sql` runs in `database`; it passes if it returns rows and the first column of each is true.
    """

    name: str
    database: str
    sql: str


@dataclass(frozen=True, slots=True)
class BackupConfig:
    """Where backups go and how they are made.

    `backup_dir`, `s3_bucket` or `repository_url` names the repository (`repository_url` wins).
    `compression_level` is zstd's, 1 to 19. `max_rate` limits the server's sending, in kilobytes
    a second (32 to 1048576, PostgreSQL's BASE_BACKUP MAX_RATE). `bin_dir` is searched first for
    PostgreSQL's programs; `scratch_dir` and `scratch_user` are where and as whom scratch servers run, and
    `checks` what a full verification asks them. `s3_options` are further obstore S3 settings.
    `change_detection` is how backups that build on others find what changed; "summaries" (PostgreSQL 17 and
    later) is given up for "compare" wherever it would not be safe. `standby` ("host" or "host:port") sends the files
    in place of the primary, which is asked all the same, unless it is more than `max_standby_lag_mb` of WAL behind.
    `method` is how a backup is taken. A logical one is of the `databases` named, by default of all that the role may
    connect to, and with `tables` or without `exclude_tables` (patterns, as pg_dump has them) of a part of their tables;
    naming any of these is asking for a logical one. `dump_jobs` is how many tables are dumped at a time.
    `retention_days` and `keep_…` say how long backups are kept, and `pitr_days` for how long every moment can be
    restored (docs/decisions/0014-retention.md); without any, 24 hours, 30 days, 52 weeks and 84 months.
    `storage_price_per_gb_month` is what the store charges for 10^9 bytes and a month; reports then show costs.
    `backup_max_age_hours`, `proof_max_age_days`, `rpo_minutes` and `rto_minutes` are objectives: what is not set is not
    judged. `notify_url` (Apprise's form, a secret) is who is told (docs/decisions/0015-objectives-and-notifications.md).
    The `…_interval`s are for the service (`pgproof schedule`): "hourly", "daily", "weekly", "monthly", "never", a length such as
    "90m", or five fields of cron, in UTC.
    """

    backup_dir: str | None = None
    s3_bucket: str | None = None
    backup_type: BackupType = BackupType.FULL
    compression: bool = True
    encryption: bool = True
    retention_days: int | None = None
    full_backup_interval: str = "daily"
    incremental_interval: str = "hourly"
    differential_interval: str = "never"
    cluster: str = "main"
    repository_url: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    passphrase_file: str | None = None
    s3_region: str | None = None
    s3_endpoint: str | None = None
    s3_access_key_id: str | None = field(default=None, repr=False)
    s3_secret_access_key: str | None = field(default=None, repr=False)
    s3_options: Mapping[str, str] = field(default_factory=dict)
    compression_level: int = 3
    max_rate: int | None = None
    fast_checkpoint: bool = True
    bin_dir: str | None = None
    scratch_dir: str | None = None
    scratch_user: str | None = None
    checks: tuple[UserCheck, ...] = ()
    change_detection: ChangeDetection = ChangeDetection.COMPARE
    standby: str | None = None
    max_standby_lag_mb: int = 1000
    method: BackupMethod = BackupMethod.AUTO
    databases: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    dump_jobs: int = 2
    keep_last: int | None = None
    keep_hours: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_at_least: int | None = None
    pitr_days: int | None = None
    storage_price_per_gb_month: float | None = None
    backup_max_age_hours: int | None = None
    proof_max_age_days: int | None = None
    rpo_minutes: int | None = None
    rto_minutes: int | None = None
    notify_url: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _CLUSTER_NAME.match(self.cluster):
            raise PreconditionError(
                "not a usable cluster name",
                hint="use lower-case letters, digits, '-', '_' and '.', at most 63, such as 'main'",
                cluster=self.cluster,
            )
        if not 1 <= self.compression_level <= 19:
            raise PreconditionError(
                "the compression level is out of range",
                hint="choose 1 (fast) to 19 (small); 3 is the default",
                compression_level=self.compression_level,
            )
        if self.max_rate is not None and not 32 <= self.max_rate <= 1048576:
            raise PreconditionError(
                "the maximum rate is out of range",
                hint="give kilobytes a second from 32 to 1048576",
                max_rate=self.max_rate,
            )
        if not 1 <= self.dump_jobs <= 64:
            raise PreconditionError(
                "the number of tables to dump at a time is out of range",
                hint="choose 1 to 64; 2 is the default",
                dump_jobs=self.dump_jobs,
            )
        if self.method is BackupMethod.PHYSICAL and self.selects:
            raise PreconditionError(
                "a physical backup is always of the whole cluster",
                hint="leave out databases and tables, or take a logical backup (--method logical)",
            )
        if any("\0" in name or not name for name in (*self.databases, *self.tables, *self.exclude_tables)):
            raise PreconditionError("a name is empty or has a zero byte", hint="correct the name")
        if (
            self.storage_price_per_gb_month is not None
            and not 0 <= self.storage_price_per_gb_month < math.inf
        ):
            raise PreconditionError(
                "not a price of storage",
                hint="give what a GB costs in a month, such as 0.023",
                storage_price_per_gb_month=self.storage_price_per_gb_month,
            )
        # What is no rule or no interval is refused now, and not when it would be used.
        _ = self.retention, self.schedules, self.objectives
        if self.standby and self.logical_only:
            raise PreconditionError(
                "a logical backup is taken from one server",
                hint="connect to the standby itself, and leave out --from-standby",
            )

    @property
    def retention(self) -> RetentionPolicy:
        return policy_of(
            days=self.retention_days,
            last=self.keep_last,
            hours=self.keep_hours,
            daily=self.keep_daily,
            weekly=self.keep_weekly,
            monthly=self.keep_monthly,
            at_least=self.keep_at_least,
            pitr_days=self.pitr_days,
        )

    @property
    def objectives(self) -> Objectives:
        return Objectives(
            self.backup_max_age_hours, self.proof_max_age_days, self.rpo_minutes, self.rto_minutes
        )

    @property
    def schedules(self) -> dict[BackupType, Schedule | None]:
        """When backups of each type are due; None is never."""
        given = {
            BackupType.FULL: ("full_backup_interval", FULL),
            BackupType.DIFFERENTIAL: ("differential_interval", DIFFERENTIAL),
            BackupType.INCREMENTAL: ("incremental_interval", INCREMENTAL),
        }
        return {
            kind: schedule_of(getattr(self, setting), words, setting)
            for kind, (setting, words) in given.items()
        }

    @property
    def selects(self) -> bool:
        """Whether databases or tables are named, so that only a logical backup can be meant."""
        return bool(self.databases or self.tables or self.exclude_tables)

    @property
    def logical_only(self) -> bool:
        """Whether a logical backup is asked for."""
        return self.method is BackupMethod.LOGICAL or self.selects

    def completed(self, environ: Mapping[str, str]) -> Self:
        """The same, with what it leaves open of the passphrase, of S3 access and of whom to tell taken from `environ`."""
        found = type(self).from_env(environ)
        passphrase, file = self.passphrase, self.passphrase_file
        if not passphrase and not file:
            passphrase, file = found.passphrase, found.passphrase_file
        return replace(
            self,
            passphrase=passphrase,
            passphrase_file=file,
            notify_url=self.notify_url or found.notify_url,
            s3_region=self.s3_region or found.s3_region,
            s3_endpoint=self.s3_endpoint or found.s3_endpoint,
        )

    @property
    def mirror_bucket(self) -> str | None:
        """The bucket that is configured beside a directory."""
        return self.s3_bucket if self.backup_dir and not self.repository_url else None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read `BACKUP_DIR`, `AWS_S3_BUCKET`, `BACKUP_PASSPHRASE`, … from `environ`.

        `overrides` win over the environment where they are not None.
        Raises PreconditionError for a value that cannot be read.
        """
        if environ is None:
            import os

            environ = os.environ
        values: dict[str, Any] = {
            "backup_dir": environ.get("BACKUP_DIR") or None,
            "s3_bucket": environ.get("AWS_S3_BUCKET") or None,
            "s3_region": environ.get("AWS_S3_REGION") or None,
            "s3_endpoint": environ.get("AWS_ENDPOINT_URL") or None,
            "s3_access_key_id": environ.get("AWS_ACCESS_KEY_ID") or None,
            "s3_secret_access_key": environ.get("AWS_SECRET_ACCESS_KEY") or None,
            "repository_url": environ.get("BACKUP_REPOSITORY_URL") or None,
            "passphrase": environ.get("BACKUP_PASSPHRASE") or None,
            "passphrase_file": environ.get("BACKUP_PASSPHRASE_FILE") or None,
            "compression": _switch(environ, "BACKUP_COMPRESSION"),
            "encryption": _switch(environ, "BACKUP_ENCRYPTION"),
            "retention_days": _number(environ, "BACKUP_RETENTION_DAYS"),
            "keep_last": _number(environ, "BACKUP_KEEP_LAST"),
            "keep_hours": _number(environ, "BACKUP_KEEP_HOURS"),
            "keep_daily": _number(environ, "BACKUP_KEEP_DAILY"),
            "keep_weekly": _number(environ, "BACKUP_KEEP_WEEKLY"),
            "keep_monthly": _number(environ, "BACKUP_KEEP_MONTHLY"),
            "keep_at_least": _number(environ, "BACKUP_KEEP_AT_LEAST"),
            "pitr_days": _number(environ, "BACKUP_PITR_DAYS"),
            "backup_max_age_hours": _number(environ, "BACKUP_MAX_AGE_HOURS"),
            "proof_max_age_days": _number(environ, "BACKUP_PROOF_MAX_AGE_DAYS"),
            "rpo_minutes": _number(environ, "BACKUP_RPO_MINUTES"),
            "rto_minutes": _number(environ, "BACKUP_RTO_MINUTES"),
            "notify_url": environ.get("BACKUP_NOTIFY_URL") or None,
            "standby": environ.get("BACKUP_STANDBY") or None,
            "cluster": environ.get("BACKUP_CLUSTER") or None,
            "full_backup_interval": environ.get("BACKUP_FULL_INTERVAL") or None,
            "differential_interval": environ.get("BACKUP_DIFFERENTIAL_INTERVAL") or None,
            "incremental_interval": environ.get("BACKUP_INCREMENTAL_INTERVAL") or None,
            "change_detection": _change_detection(environ.get("BACKUP_CHANGE_DETECTION", "").strip() or None),
            "method": _method(environ.get("BACKUP_METHOD", "").strip() or None),
            "storage_price_per_gb_month": _price(environ, "BACKUP_STORAGE_PRICE_PER_GB_MONTH"),
        }
        values.update({key: value for key, value in overrides.items() if value is not None})
        return cls(**{key: value for key, value in values.items() if value is not None})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from a configuration file's table. Raises PreconditionError for an unknown key."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise PreconditionError(
                "unknown setting in the configuration",
                hint=f"known settings are {', '.join(sorted(known))}",
                settings=", ".join(unknown),
            )
        rest = dict(values)
        if "backup_type" in rest:
            rest["backup_type"] = _backup_type(rest["backup_type"])
        if "change_detection" in rest:
            rest["change_detection"] = _change_detection(rest["change_detection"])
        if "method" in rest:
            rest["method"] = _method(rest["method"])
        for name in ("databases", "tables", "exclude_tables"):
            if name in rest:
                rest[name] = tuple(rest[name])
        if "checks" in rest:
            rest["checks"] = tuple(_user_check(check) for check in rest["checks"])
        return cls(**rest)


def _backup_type(value: Any) -> BackupType:
    try:
        return BackupType(value)
    except ValueError as error:
        raise PreconditionError(
            "unknown type of backup", hint=f"use {', '.join(BackupType)}", backup_type=value
        ) from error


def _change_detection(value: Any) -> ChangeDetection | None:
    try:
        return None if value is None else ChangeDetection(value)
    except ValueError as error:
        raise PreconditionError(
            "unknown way to find what changed",
            hint=f"use {' or '.join(ChangeDetection)}",
            change_detection=value,
        ) from error


def _method(value: Any) -> BackupMethod | None:
    try:
        return None if value is None else BackupMethod(value)
    except ValueError as error:
        raise PreconditionError(
            "unknown method of backup", hint=f"use {', '.join(BackupMethod)}", method=value
        ) from error


def _user_check(value: Any) -> UserCheck:
    if isinstance(value, UserCheck):
        return value
    try:
        return UserCheck(**{key: str(text) for key, text in value.items()})
    except (AttributeError, TypeError) as error:
        raise PreconditionError(
            "a check of the configuration is not complete", hint="give each check a name, a database and sql"
        ) from error


def _switch(environ: Mapping[str, str], name: str) -> bool | None:
    text = environ.get(name, "").strip().lower()
    if not text:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise PreconditionError("a switch is neither on nor off", hint=f"set {name} to true or false", value=text)


def _price(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name, "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise PreconditionError(
            "a setting is not a number", hint=f"set {name} to a number such as 0.023", value=text
        ) from None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise PreconditionError("a setting is not a number", hint=f"set {name} to a whole number", value=text)
