"""The applications of the README and of docs/replicas.md run, on a primary and its replicas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.routing.world import run, world
from tests.support.postgres import SUPERUSER, SUPERUSER_PASSWORD

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/replicas.md").read_text()


def test_the_applications_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (section,) = re.findall(r"^## In an application\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    with world(18, 2) as servers:
        servers.primary.psql("CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE)")
        servers.catch_up()
        places = ",".join(f"127.0.0.1:{each.port}" for each in servers.replicas.values())
        for name, value in {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(servers.primary.port),
            "PGUSER": SUPERUSER,
            "PGPASSWORD": SUPERUSER_PASSWORD,
            "PGDATABASE": "postgres",
            "READ_REPLICA_HOSTS": places,
        }.items():
            monkeypatch.setenv(name, value)
        module: dict[str, Any] = {"__name__": "application"}
        exec(compile(code, "docs/replicas.md", "exec"), module)  # noqa: S102 - the page is ours
        run(use(module["app"]))
        blocks = re.findall(
            r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
        )
        (short,) = [each for each in blocks if "ReadReplicaRouter" in each]
        exec(compile(short, "README.md", "exec"), {"__name__": "application"})  # noqa: S102 - the page is ours
        said = capsys.readouterr().out
        assert "('test5@example.com',), ('test@example.com',)]" in said and "<node 127.0.0.1:" in said


async def use(app: Any) -> None:
    users = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")
    async with app.router.lifespan_context(app), users as client:
        for number in range(1, 6):
            email = f"test{number}@example.com"
            assert (await client.post("/users", params={"email": email})).json() == {"id": number}
            # Each sees at once what he wrote.
            assert (await client.get("/users")).json()[-1] == email
        health = (await client.get("/health")).json()
    reads = {each["id"]: each["counts"]["reads"] for each in health["nodes"]}
    assert health["writer"] == "primary" and sum(reads.values()) == 5
