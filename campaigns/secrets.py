"""Passwords, passphrases and keys are planted, everything is run, well and badly, and then they are looked for.

Looked through are: what every command says, the arguments of all processes and the environments of those that were
not given the secrets, files while they exist and afterwards (repositories, restored clusters, temporary folders), and
of Prefect its logs, artifacts, runs, states, deployments, its database and its home. Nothing may be found
except where ALLOWED says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.canaries import MARK, Canaries, Guard, forms_of
from campaigns.secrets_prefect import search_prefect
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server

ROOT = Path(__file__).resolve().parent.parent
_CONTROL_FORMS = 7

# What is rightly somewhere: {what was found and where: why}.
ALLOWED = {
    "recovery key in the output of init": "it is printed once, to be kept on paper, and stored nowhere",
    "S3 access key in the environment of weed": "the store is started with the keys that it admits",
    "S3 secret key in the environment of weed": "the store is started with the keys that it admits",
}


@dataclass
class Ground:
    """A server, a store and a program with planted secrets; `found` is where some turned up."""

    campaign: Campaign
    canaries: Canaries
    cluster: Cluster
    environ: dict[str, str]
    place: Path
    found: set[str] = field(default_factory=set)

    def run(self, *arguments: str, fails: bool = False, **changes: str) -> str:
        """Run the program with its secrets; what it says is searched. Returns its standard output."""
        environ = {**self.environ, **changes}
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "db_backup.py"), *arguments],
            cwd="/",
            env=environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{arguments}: {done.returncode}\n{said}"
        self.hear(arguments[0], said)
        self.campaign.count("commands that failed" if fails else "commands that succeeded")
        return done.stdout

    def hear(self, command: str, said: str) -> None:
        found = self.canaries.search().in_text(said)
        self.note({f"{what} in the output of {command}" for what in found})

    def note(self, leaks: set[str]) -> None:
        for each in leaks & ALLOWED.keys():
            self.campaign.count(f"allowed: {each}")
        self.found |= leaks - ALLOWED.keys()


def run(campaign: Campaign) -> None:
    canaries = Canaries(campaign.random("canaries"))
    _control(campaign, canaries)
    whole = campaign.share >= 0.5
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(18))
        s3 = stack.enter_context(_guarded_s3(canaries)) if whole else None
        for number, store in enumerate(["directory", "bucket"] if whole else ["directory"]):
            place = campaign.place / store
            (place / "tmp").mkdir(parents=True)
            place.chmod(0o755)
            (place / "tmp").chmod(0o1777)
            ground = Ground(campaign, canaries, cluster, {}, place)
            ground.environ = _environment(ground, s3 if store == "bucket" else None)
            _secrets_of_people(ground)
            with Guard(canaries, [place / "tmp"]) as guard:
                _everything(ground, thorough=whole)
            _judge(ground, guard)
            if s3 is not None and store == "bucket":
                # The access key is a name: every request carries it, and the store's own log tells who asked.
                leaks = canaries.search().in_folder(s3.root)
                ground.found |= {each for each in leaks if not each.startswith("S3 access key in ")}
            assert not ground.found, f"{ground.found} (seed {campaign.seed}, round {number})"
        if whole:
            leaks = search_prefect(campaign, canaries, cluster) - ALLOWED.keys()
            assert not leaks, f"{leaks} (seed {campaign.seed})"
    campaign.require("commands that succeeded", 20, 8)
    campaign.require("commands that failed", 20, 8)
    campaign.require("environments looked at", 1000, 20)
    campaign.require("megabytes searched", 20)
    campaign.require("forms of a word that the search finds", _CONTROL_FORMS, _CONTROL_FORMS)
    campaign.require("allowed: recovery key in the output of init", 2)


def _control(campaign: Campaign, canaries: Canaries) -> None:
    """The search finds every form, in the middle of something else, in a file: else finding nothing says nothing."""
    word = canaries.plant("control")
    search, folder = canaries.search(), campaign.place / "control"
    folder.mkdir()
    forms = sorted(forms_of(word))
    for number, form in enumerate(forms):
        (folder / str(number)).write_bytes(b"before it" + form + b"and after it")
        assert search.in_folder(folder) == {f"control in {folder / str(number)}"}, form
        (folder / str(number)).unlink()
    assert not search.in_text(b"nothing of that")
    campaign.count("forms of a word that the search finds", len(forms))


def _guarded_s3(canaries: Canaries) -> S3Server:
    server = S3Server()
    server.access_key = canaries.plant("S3 access key", plain=True)
    server.secret_key = canaries.plant("S3 secret key", plain=True)
    return server


def _environment(ground: Ground, s3: S3Server | None) -> dict[str, str]:
    """What a person exports: a role with a planted password, a repository, and its passphrase."""
    name = "bucket" if s3 else "directory"
    password = ground.canaries.plant(f"password for the {name}")
    role = f"watched_{name}"
    quoted = password.replace("'", "''")
    ground.cluster.psql(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{quoted}'")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "TMPDIR": str(ground.place / "tmp"),
        MARK: "1",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(ground.cluster.port),
        "PGUSER": role,
        "PGPASSWORD": password,
        "BACKUP_PASSPHRASE": ground.canaries.plant(f"passphrase of the {name}"),
    }
    if s3 is None:
        return {**environ, "BACKUP_DIR": str(ground.place / "repository")}
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    return {**environ, **keys, "AWS_ENDPOINT_URL": s3.endpoint, "AWS_S3_BUCKET": s3.make_bucket("watched")}


def _secrets_of_people(ground: Ground) -> None:
    """Files with new passphrases lie outside what is searched: they are where people put them."""
    for name in ("added", "changed"):
        path = ground.campaign.place / f"{ground.place.name}-{name}"
        path.touch(mode=0o600)
        path.write_text(ground.canaries.plant(f"{name} passphrase of {ground.place.name}") + "\n")


def _everything(ground: Ground, *, thorough: bool) -> None:
    """Every command as it should be, and as it fails: wrong secrets, no store, killed, stopped half-way."""
    canaries, run, target = ground.canaries, ground.run, ground.place / "restored"
    added, changed = (str(ground.campaign.place / f"{ground.place.name}-{n}") for n in ("added", "changed"))
    wrong_password = {"PGPASSWORD": canaries.plant("wrong password")}
    wrong_passphrase = {"BACKUP_PASSPHRASE": canaries.plant("wrong passphrase")}
    no_store = {"BACKUP_DIR": "", "AWS_S3_BUCKET": "none", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    no_store |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": canaries.plant("key for no store")}
    in_url = {"BACKUP_REPOSITORY_URL": f"s3://me:{canaries.plant('key in a URL', plain=True)}@bucket/place"}

    made = run("init", "--json")
    canaries.add("recovery key", json.loads(made)["recovery_key"])
    ground.hear("init", made)
    run("create", "-vv", fails=True, **wrong_password)
    run("create", "--json", fails=True, **wrong_passphrase)
    run("list", "-vv", fails=True, **in_url)
    run("create", "-vv", fails=True, PGPROOF_FAILPOINTS="pack.stored=kill")
    run("create", "-vv", fails=True, PGPROOF_FAILPOINTS="pack.stored=raise")
    run("create", "-vv")
    run("list", "--json")
    run("check", "-vv")
    run("check", "-vv", fails=True, **wrong_password)
    run("verify", "latest", "--level", "frames", "-vv")
    run("verify", "latest", "--level", "frames", fails=True, PGPROOF_FAILPOINTS="verify.objects=kill")
    run("restore", "latest", "--data-dir", str(target), "-vv", fails=True, **wrong_passphrase)
    run("keys", "add", "--new-passphrase-file", added, "-vv")
    run("keys", "change", "--new-passphrase-file", changed, fails=True, **wrong_passphrase)
    run("keys", "change", "--new-passphrase-file", changed, "-vv")
    ground.environ["BACKUP_PASSPHRASE"] = Path(changed).read_text().strip()
    run("keys", "list", "--json")
    if not thorough:
        return
    run("init", "-vv", fails=True)
    # The program waits a good while for a store that does not answer.
    run("create", "--json", "-vv", fails=True, **no_store)
    run("verify", "latest", "--level", "full", "-vv")
    run("verify", "latest", "--level", "start", "-vv", fails=True, PGPROOF_FAILPOINTS="server.open=kill")
    run(
        "restore",
        "latest",
        "--data-dir",
        str(target),
        "-vv",
        fails=True,
        PGPROOF_FAILPOINTS="restore.sync=kill",
    )
    run("restore", "latest", "--data-dir", str(ground.place / "again"), "-vv")
    run("restore", "latest", "--data-dir", str(ground.place / "plain"), "--no-recover", "-vv")
    run("stats", "--json")


def _judge(ground: Ground, guard: Guard) -> None:
    campaign, search = ground.campaign, ground.canaries.search()
    ground.note(guard.leaks | search.in_folder(ground.place) | search.in_folder(ground.cluster.root))
    campaign.count("environments looked at", guard.environments)
    campaign.count("passing files looked at", guard.files)
    campaign.count("servers watched", len(guard.servers))
    campaign.count("megabytes searched", search.looked_at >> 20)
