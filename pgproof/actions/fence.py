"""End the old primary by the configured command, and see for ourselves that it writes no more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.failover_evidence import silent
from pgproof.model.job import Job
from pgproof.model.node import NodeState
from pgproof.model.servers import place
from pgproof.postgres.node_query import measure_nodes
from pgproof.postgres.running import Running

_LOOKS = 2
_BETWEEN_LOOKS = 1.0
_LOOK_SECONDS = 5.0
_OUTPUT = 2000
# Names of variables that a fence has no need of: whoever can end a server need not read its data.
_OURS = ("PG", "BACKUP_", "AWS_", "READ_REPLICA_", "REPLICA_", "PREFECT_")
_SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 4
_NOTHING_DONE = "nothing was promoted"


def run_fence(command: str, server: PostgresConfig, seconds: float, secrets: Iterable[str], job: Job) -> str:
    """Run it by the shell, with FENCE_HOST and FENCE_PORT; return what it printed, without `secrets`.

    Raises PreconditionError if it fails, or takes longer than `seconds` (then it is ended).
    """
    host, port = place(server)
    kept, withheld = _environment(os.environ)
    # Both of its outputs are kept, in their order.
    shell = ["/bin/sh", "-c", 'exec /bin/sh -c "$0" 1>&2', command]
    end, overdue = time.monotonic() + seconds, False
    with Running(shell, {**kept, "FENCE_HOST": host or "localhost", "FENCE_PORT": port}) as program:
        while (status := program.poll()) is None:
            job.checkpoint()
            if overdue := time.monotonic() > end:
                break
            time.sleep(0.05)
        said = masked(program.said.strip()[-_OUTPUT:], (*secrets, *withheld))
    if status != 0:
        raise PreconditionError(
            "the fence took too long, and was ended" if overdue else "the fence failed",
            hint=f"{_NOTHING_DONE}; make the command work, or end the old primary by hand and add --unfenced",
            status=status,
            seconds=seconds,
            said=said[-500:],
        )
    return said


def require_fenced(node: str, server: PostgresConfig, seconds: float, job: Job) -> str:
    """Look twice, by fresh connections: nobody answers there, or it is in recovery. Return what was seen.

    A server that is just ending is waited for. Raises PreconditionError for one that still writes, or may.
    """
    end, quiet, seen = time.monotonic() + seconds, 0, ""
    while True:
        job.checkpoint()
        answer = measure_nodes({node: server}, _LOOK_SECONDS)[node]
        if isinstance(answer, NodeState) and answer.primary:
            raise PreconditionError(
                f"{node} still writes, although its fence says that it was ended",
                hint=f"{_NOTHING_DONE}; correct the fence command: it must end this very server",
                node=node,
                server=str(server),
            )
        if isinstance(answer, NodeState):
            quiet, seen = quiet + 1, "it is in recovery"
        elif silent(answer):
            quiet, seen = quiet + 1, "it does not answer"
        else:
            quiet = 0
            if time.monotonic() > end:
                raise PreconditionError(
                    f"{node} is alive, and may write",
                    hint=f"{_NOTHING_DONE}; see the reason, and end it",
                    node=node,
                    reason=_reason(answer),
                )
        if quiet == _LOOKS:
            return seen
        time.sleep(_BETWEEN_LOOKS)


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text with every one of these values replaced."""
    for secret in sorted({each for each in secrets if each}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def secrets_of(servers: Iterable[PostgresConfig]) -> set[str]:
    """What of the way to these servers must not be printed."""
    return {
        value for server in servers for value in (server.password, server.options.get("sslpassword")) if value
    }


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """What the command may see, and the values of the secrets that it may not."""
    kept, withheld = {}, set()
    for name, value in environ.items():
        secret = bool(_SECRET.search(name))
        if secret or name.startswith(_OURS):
            if secret and len(value) >= _SHORTEST_SECRET:
                withheld.add(value)
        else:
            kept[name] = value
    return kept, withheld


def _reason(error: EngineError) -> str:
    return str(error.context.get("reason", error.message))
