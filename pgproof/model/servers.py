"""The servers that one configuration lists, as libpq does: host=a,b,c."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice

from pgproof.model.config import PostgresConfig

_CHOOSING = ("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts")
_DEFAULT_PORT = "5432"


def listed_servers(config: PostgresConfig) -> tuple[PostgresConfig, ...]:
    """One configuration for each host; a host of libpq's environment or service file is not seen."""
    known = config.parameters()
    hosts = known.get("host", "").split(",")
    addresses = known.get("hostaddr", "").split(",")
    ports = known.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    if count == 1:
        return (config,)
    options = {name: value for name, value in config.options.items() if name not in _CHOOSING}
    columns = [islice(cycle(column), count) for column in (hosts, addresses, ports)]
    servers = []
    for host, address, port in zip(*columns, strict=True):
        own = options | ({"hostaddr": address} if address else {}) | ({"port": port} if port else {})
        servers.append(replace(config, host=host or None, port=None, options=own))
    return tuple(servers)


def place(config: PostgresConfig) -> tuple[str, str]:
    """Where a configuration of one server leads: host and port."""
    known = config.parameters()
    return known.get("host") or known.get("hostaddr") or "", known.get("port") or _DEFAULT_PORT
