"""Clusters whose settings and code attack whoever starts them: verified in full and restored, without harm.

The backup is honest, the cluster is not: its settings run commands, load libraries and write files, its roles and
databases bring settings of their own, and its triggers and index expressions start programs and open connections
as superuser. The same code is run on the source first, to show that it does all that where nothing holds it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

from campaigns.campaign import Campaign
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import VerificationReport
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.postgres import Cluster

ROUNDS = 12
_MAJORS = (18, 17, 15)
_SAID = "the attack was here"
_SCRATCH = "pgproof-scratch"
_SLEEP = 86399

# What a started server would do by itself, with {place} a directory that everybody may write to.
_SETTINGS = {
    "archive_mode": "always",
    "archive_command": "touch {place}/archive_command",
    "archive_cleanup_command": "touch {place}/archive_cleanup_command",
    "recovery_end_command": "touch {place}/recovery_end_command",
    "restore_command": "touch {place}/restore_command",
    "ssl_passphrase_command": "touch {place}/ssl_passphrase_command",
    "ssl_passphrase_command_supports_reload": "on",
    "primary_conninfo": "host=127.0.0.1 port={port} user=x",
    "external_pid_file": "{place}/external_pid_file",
    "unix_socket_directories": "{place}",
    "unix_socket_permissions": "0777",
    "listen_addresses": "*",
    "shared_preload_libraries": "{place}/library",
    "session_preload_libraries": "{place}/library",
    "local_preload_libraries": "library",
    "dynamic_library_path": "{place}:$libdir",
    "logging_collector": "on",
    "log_directory": "{place}",
    "stats_temp_directory": "{place}",
    "krb_server_keyfile": "{place}/krb",
    "event_triggers": "on",
    "include_dir": "{place}",
    "jit_provider": "{place}/jit",
}

_CODE = """
CREATE FUNCTION attack() RETURNS void LANGUAGE plpgsql AS $$
DECLARE command text; large oid;
BEGIN
    FOREACH command IN ARRAY ARRAY[
        'touch {place}/program',
        'bash -c "echo x > /dev/tcp/127.0.0.1/{port}"',
        'setsid sleep {sleep} > /dev/null 2>&1 &']
    LOOP
        BEGIN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', command);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    BEGIN COPY (SELECT 1) TO '{place}/file'; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN
        large := lo_from_bytea(0, 'x');
        PERFORM lo_export(large, '{place}/large_object');
    EXCEPTION WHEN OTHERS THEN NULL; END;
END $$;
SELECT attack();
CREATE FUNCTION innocent(value int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.attack();
    IF current_setting('cluster_name') = '{scratch}' THEN RAISE EXCEPTION '{said}'; END IF;
    RETURN value;
END $$;
CREATE TABLE bait AS SELECT 1 AS value;
CREATE INDEX ON bait (innocent(value));
CREATE FUNCTION on_event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); END $$;
CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION on_event();
ALTER EVENT TRIGGER on_ddl ENABLE ALWAYS;
CREATE SCHEMA evil;
CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE sql AS $$ SELECT public.attack(); SELECT 1::bigint $$;
ALTER DATABASE postgres SET search_path = evil, pg_catalog, public;
CREATE ROLE nobody_at_all;
ALTER DATABASE template1 SET statement_timeout = '1ms';
ALTER ROLE postgres SET role = 'nobody_at_all';
"""
_ON_LOGIN = """
CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION on_event();
ALTER EVENT TRIGGER on_login ENABLE ALWAYS;
"""


def run(campaign: Campaign) -> None:
    for number, random in campaign.rounds(ROUNDS):
        _round(campaign, _MAJORS[number % len(_MAJORS)], random, campaign.place / f"round-{number}")
    campaign.require("clusters", ROUNDS)
    campaign.require("verifications that met the attack", ROUNDS)
    campaign.require("restores", ROUNDS)


def _round(campaign: Campaign, major: int, random: Random, root: Path) -> None:
    place = machine.new_dir("bait")
    place.chmod(0o777)
    with _listener() as (port, connections), Cluster(major, settings={"autovacuum": False}) as cluster:
        words = {"place": str(place), "port": port, "sleep": _SLEEP, "scratch": _SCRATCH, "said": _SAID}
        _arm(cluster, words, random)
        assert {path.name for path in place.iterdir()} >= {"program", "file", "large_object"}
        assert connections, "the attack opened no connection where it could"
        _disarm_source(place, connections)
        config = new_repository(root, encryption=False)
        backup = take_backup(cluster.config(), config, BackupType.FULL, Job()).backup_id
        cluster.stop()
        campaign.count("clusters")
        report = verify_backup(config, backup, VerifyLevel.FULL, Job())
        _judge(campaign, report, place, connections)
        _restore(campaign, config, backup, place, connections)
    shutil.rmtree(root)
    shutil.rmtree(place)


def _arm(cluster: Cluster, words: dict[str, object], random: Random) -> None:
    chosen = random.sample(sorted(_SETTINGS), random.randrange(len(_SETTINGS) // 2, len(_SETTINGS) + 1))
    lines = [f"{name} = '{_SETTINGS[name].format(**words)}'\n" for name in chosen]
    # In one of both files at random; the source was started before and does not read them again.
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        with (cluster.data_dir / name).open("a") as file:
            file.writelines(lines if name.endswith("auto.conf") or random.random() < 0.5 else [])
    code = _CODE
    for name, value in words.items():
        code = code.replace(f"{{{name}}}", str(value))
    cluster.psql(code + (_ON_LOGIN if cluster.major >= 17 else ""))


def _disarm_source(place: Path, connections: list[object]) -> None:
    """Take away what the attack did on the source, so that whatever is there later was done by us."""
    _end_sleepers()
    for path in place.iterdir():
        path.unlink()
    connections.clear()


def _judge(campaign: Campaign, report: VerificationReport, place: Path, connections: list[object]) -> None:
    _require_no_harm(place, connections)
    assert "namespaces" in report.sandbox, report.sandbox
    told = " ".join(f"{check.name}: {check.detail}" for check in report.checks)
    assert _SAID in told, f"the attack was not met: {told}"
    assert report.proven == report.ok
    campaign.count("verifications that met the attack")


def _restore(
    campaign: Campaign, config: BackupConfig, backup: str, place: Path, connections: list[object]
) -> None:
    target = machine.new_dir("target") / "data"
    try:
        report = restore_cluster(config, backup, target, tablespaces={}, recover=True, owner=None, job=Job())
        assert report.recovered
        campaign.count("restores")
    except (DataError, PreconditionError) as error:
        raise AssertionError(f"an honest backup of a hostile cluster was not restored: {error}") from error
    finally:
        _require_no_harm(place, connections)
        shutil.rmtree(target.parent)


def _require_no_harm(place: Path, connections: list[object]) -> None:
    found = [path.name for path in place.iterdir()]
    assert not found, f"the attack got out and left {found}"
    assert not connections, "the attack got out and opened a connection"
    assert not list(_sleepers()), "the attack left a process"


def _sleepers() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cmdline").read_bytes() == f"sleep\0{_SLEEP}\0".encode():
                yield int(path.name)


def _end_sleepers() -> None:
    for pid in _sleepers():
        os.kill(pid, signal.SIGKILL)
    machine.wait_until(lambda: not list(_sleepers()), "the attack's own processes to end")


@contextlib.contextmanager
def _listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine that notes who connects."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the socket was shut down
                while True:
                    connection, address = server.accept()
                    connections.append(address)
                    connection.close()

        thread = threading.Thread(target=accept, name="bait-listener", daemon=True)
        thread.start()
        yield server.getsockname()[1], connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
