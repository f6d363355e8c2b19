"""What a failover has to know of a node beside what it is: its settings, and what we may do there."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any, Final, LiteralString

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig
from pgproof.model.failover_evidence import NodeFacts
from pgproof.postgres.asking import ask

# pg_settings leaves out what the role may not see; current_setting would raise an error for it.
_QUERY: Final[LiteralString] = """
SELECT current_user::text,
       (SELECT jsonb_object_agg(name, jsonb_build_array(setting, source)) FROM pg_settings
         WHERE name IN ('primary_conninfo', 'primary_slot_name', 'recovery_target_timeline', 'cluster_name',
                        'synchronous_standby_names', 'synchronous_commit')),
       has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'EXECUTE'),
       rolsuper OR pg_has_role('pg_checkpoint', 'USAGE'),
       rolsuper OR rolreplication,
       rolsuper OR has_parameter_privilege('primary_conninfo', 'ALTER SYSTEM'),
       has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')
  FROM pg_roles WHERE rolname = current_user
"""
_UNNAMED = "walreceiver"


def read_failover_facts(server: PostgresConfig, seconds: float) -> NodeFacts:
    """Raises the engine's errors for a node that cannot be asked within `seconds`."""
    rows = ask(server, _QUERY, seconds=seconds, what="the question what may be done")
    user, settings, promote, checkpoint, slots, alter, reload = rows[0]
    known: dict[str, list[Any]] = settings or {}

    def value(name: str) -> str:
        return str(known.get(name, ["", ""])[0] or "")

    visible = "primary_conninfo" in known
    parameters = parse_conninfo(value("primary_conninfo"))
    return NodeFacts(
        user=user,
        name=str(parameters.get("application_name") or value("cluster_name") or _UNNAMED) if visible else "",
        upstream=places(parameters) if visible else None,
        conninfo_source=known["primary_conninfo"][1] if visible else "",
        slot=value("primary_slot_name"),
        follows_latest=value("recovery_target_timeline") in ("", "latest"),
        synchronous_standby_names=value("synchronous_standby_names"),
        synchronous_commit=value("synchronous_commit"),
        may_promote=promote,
        may_checkpoint=checkpoint,
        may_make_slots=slots,
        may_alter=alter,
        may_reload=reload,
    )


def facts_of_all(servers: dict[str, PostgresConfig], seconds: float) -> dict[str, NodeFacts]:
    """Of those that answer this as well."""
    found = {}
    for node, server in servers.items():
        try:
            found[node] = read_failover_facts(server, seconds)
        except EngineError:
            continue  # it goes without: what the node said of itself was asked before, and counts
    return found


def parse_conninfo(text: str) -> dict[str, Any]:
    """The parameters of a primary_conninfo; none of one that libpq does not understand either."""
    try:
        return {key: value for key, value in conninfo_to_dict(text).items() if value is not None}
    except ProgrammingError:
        return {}


def places(parameters: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The hosts and ports that a connection string names."""
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    ports = str(parameters.get("port") or "5432").split(",")
    return tuple(zip(hosts, islice(cycle(ports), len(hosts)), strict=True)) if hosts != [""] else ()
