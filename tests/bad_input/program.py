"""The program as a person runs it with something wrong, and what it has to say about that.

Everything runs with `--json`: the document goes to standard output and the text for people to standard
error, so one run shows both. No run may show a secret that it was given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
KINDS = {2: "usage", 3: "precondition", 4: "transient", 5: "data", 6: "conflict"}
SECRETS = ("PGPASSWORD", "BACKUP_PASSPHRASE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

# Root may write everywhere; without these capabilities the modes of files count for it as well.
WITHOUT_ROOTS_RIGHTS: tuple[str, ...] = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--") if os.geteuid() == 0 else ()
)


class Program:
    """`scripts/db_backup.py` with an environment; `env` adds variables for one run."""

    def __init__(self, **environ: str) -> None:
        self.environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}

    def with_(self, **environ: str) -> Program:
        return Program(**(self.environ | environ))

    def run(
        self,
        *arguments: str,
        status: int = 0,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] = {},
    ) -> subprocess.CompletedProcess[str]:
        given = self.environ | dict(env)
        done = subprocess.run(
            [*prefix, sys.executable, str(ROOT / "scripts" / "db_backup.py"), *arguments],
            cwd="/",
            env=given,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{said}"
        assert "Traceback" not in said
        for name in SECRETS:
            assert not given.get(name) or given[name] not in said, f"{arguments} shows {name}"
        return done

    def json(
        self,
        *arguments: str,
        status: int = 0,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] = {},
    ) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status, prefix=prefix, env=env).stdout)

    def refused(
        self,
        *arguments: str,
        message: str,
        hint: str,
        status: int = 3,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] = {},
    ) -> dict[str, Any]:
        """Run what must fail with `status`, these words and this hint; return the error's document."""
        done = self.run(*arguments, "--json", status=status, prefix=prefix, env=env)
        error: dict[str, Any] = json.loads(done.stdout)["error"]
        assert error["kind"] == KINDS[status]
        assert message in error["message"], error
        assert hint in error["hint"], error
        if status != 2:
            assert f"pgproof: {error['message']}" in done.stderr
            assert f"HINT: {error['hint']}" in done.stderr
        return error

    def checks(
        self, *, status: int = 0, prefix: Sequence[str] = (), env: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """The checks of `check` by name; those that failed have a remedy, and only they have status 7."""
        document = self.json("check", status=status, prefix=prefix, env=env)
        for check in document["checks"]:
            assert check["hint"] or check["ok"] is not False, check
        assert document["ok"] is (status == 0)
        return {check["name"]: check for check in document["checks"]}

    def fails_check(
        self, name: str, hint: str, *, prefix: Sequence[str] = (), env: Mapping[str, str] = {}
    ) -> str:
        """`check` says beforehand that `name` is wrong; return its hint."""
        found = self.checks(status=7, prefix=prefix, env=env)[name]
        assert found["ok"] is False and hint in found["hint"], found
        return str(found["hint"])


def remedy(hint: str) -> str:
    """The line or command that a hint gives to be copied; two blanks stand before it."""
    return hint.rpartition(":  ")[2]


def committed(repository: Path) -> list[Path]:
    """The manifests in a directory repository: what counts as a backup."""
    return sorted(repository.glob("clusters/*/backups/*/manifest"))
