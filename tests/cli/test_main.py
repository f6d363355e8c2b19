from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.cli.exits import Exit, error_document, exit_status
from pgproof.cli.main import COMMANDS, build_parser, run
from pgproof.cli.restore import tablespace_mapping
from pgproof.cli.via_prefect import deployment_command
from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "db_backup.py"


@pytest.fixture(autouse=True)
def _keep_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.mark.parametrize("arguments", ["import pgproof.cli.main", "pgproof.cli.main.run(['--help'])"])
def test_start_up_imports_nothing_heavy(arguments: str) -> None:
    code = f"""
import contextlib, io, sys
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    import pgproof.cli.main
    {arguments}
heavy = {{"psycopg", "obstore", "pandas", "numpy", "rich", "prefect", "cryptography", "boto3", "asyncio"}}
sys.exit(", ".join(sorted(heavy & sys.modules.keys())) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [name for names in COMMANDS.values() for name in names])
def test_a_command_is_parsed_without_the_others(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for parser in (build_parser([command]), build_parser()):
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        helps.append(capsys.readouterr().out)
    assert helps[0] == helps[1] != ""


def test_every_command_has_its_module() -> None:
    known = {name for names in COMMANDS.values() for name in names}
    offered = next(action.choices for action in build_parser()._actions if action.choices)
    assert set(offered) == known


def test_the_promised_script_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("init", "create", "list", "verify", "restore", "stats", "check", "keys", "demo"):
        assert f"\n    {command} " in done.stdout
    assert "exit status:" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("pgproof ")


@pytest.mark.parametrize("command", [["create"], ["list"], ["stats"], ["check"], ["init"], ["keys", "list"]])
def test_every_command_has_the_common_options(command: list[str]) -> None:
    common = ["--cluster", "c", "--json", "--yes", "--config", "f", "--repository", "r", "-v"]
    connection = ["--host", "h", "--port", "5433", "--user", "u", "--dbname", "d"]
    args = build_parser().parse_args([*command, *common, *connection])
    assert (args.cluster, args.json, args.yes, args.port, args.verbose) == ("c", True, True, 5433, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["create", "--type", "weekly"],
        ["create", "--max-rate", "-5"],
        ["create", "--max-rat", "5"],
        ["verify"],
        ["list", "--password", "x"],
        ["restore", "latest", "--data-dir", "/d", "--tablespace", "relative=/new"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: pgproof")
    assert run([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (PreconditionError("m"), 3, "precondition"),
        (TransientError("m"), 4, "transient"),
        (DataError("m"), 5, "data"),
        (ConflictError("m"), 6, "conflict"),
        (EngineError("m"), 1, "unexpected"),
    ],
)
def test_the_exit_status_says_who_must_act(error: EngineError, status: int, kind: str) -> None:
    assert exit_status(error) == status
    assert error_document(error)["error"]["kind"] == kind


def test_every_exit_status_is_in_the_help_and_in_the_documentation() -> None:
    documented = (ROOT / "docs" / "cli.md").read_text()
    for status in Exit:
        assert f"\n  {status.value} " in build_parser().format_help()
        assert f"\n| {status.value} |" in documented


def test_an_error_is_a_message_and_a_hint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["list", "--config", str(tmp_path / "none.toml")]
    assert run(arguments) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pgproof: the configuration file cannot be read (file=")
    assert "\nHINT: " in captured.err and "Traceback" not in captured.err
    assert run([*arguments, "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "precondition"
    assert error["message"] == "the configuration file cannot be read"
    assert error["hint"] and error["facts"]["file"] == str(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["latest", "--to-time", "2026-11-25 12:00Z", "--to-lsn", "0/1"], "more than one recovery target"),
        (["--to-time", "noon"], "not a time"),
        (["--to-lsn", "5"], "not an LSN"),
        (["--to-xid", "x"], "not a transaction id"),
        (["latest", "--exclusive"], "no target to be exclusive of"),
        (["--to-name", "n", "--exclusive"], "neither exclusive nor inclusive"),
        ([], "neither a backup nor a recovery target"),
        (["latest", "--timeline", "0"], "not a timeline"),
        (["--to-backup-end", "--timeline", "2"], "on the backup's own timeline"),
        (["latest", "--slot", "copy"], "for a standby"),
        (["latest", "--standby", "--primary", "host=h password=secret"], "holds a password"),
        (["latest", "--standby", "--primary", "postgresql://u:secret@h/"], "holds a password"),
        (["latest", "--standby", "--primary", "host"], "not a connection string"),
        (["latest", "--standby"], "does not know its primary"),
        (["latest", "--standby", "--primary", "host=h", "--slot", "No!"], "not a name of a replication slot"),
        (["--standby", "--primary", "host=h", "--to-xid", "9"], "follows its primary"),
    ],
)
def test_targets_that_contradict_each_other_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", *options, "--data-dir", "/d", "--repository", "/nowhere"]) == 3
    said = capsys.readouterr().err
    assert message in said
    assert "HINT" in said
    assert "secret" not in said


def test_restore_without_a_directory_replaces_a_database_and_asks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["restore", "latest"]) == 3
    assert "this needs a confirmation" in capsys.readouterr().err


def test_a_tablespace_cannot_be_mapped_twice(capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--tablespace", "/a=/b", "--tablespace", "/a=/c"]
    assert run(["restore", "latest", "--data-dir", "/d", *twice]) == 3
    assert "mapped twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("/old=/new", ("/old", "/new")),
        (r"/with\=sign=/new\=too", ("/with=sign", "/new=too")),
        ("/with space=/neü", ("/with space", "/neü")),
        ("/back\\slash=/end\\", ("/back\\slash", "/end\\")),
    ],
)
def test_tablespace_mapping(text: str, mapping: tuple[str, str]) -> None:
    assert tablespace_mapping(text) == mapping


def test_prefect_gets_only_the_type() -> None:
    assert deployment_command("full")[1:] == [
        "-m", "prefect", "--no-prompt", "deployment", "run", "backup/daily-full", "--param", 'type="full"', "--watch"
    ]  # fmt: skip
    assert "--param" not in deployment_command(None)


def test_settings_are_not_dropped_silently_via_prefect(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["create", "--via", "prefect", "--max-rate", "100", "--cluster", "c"]) == 3
    assert "options=--cluster, --max-rate" in capsys.readouterr().err


def test_via_prefect_passes_the_exit_status_through(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    # Nothing listens on port 1, so Prefect's own command fails.
    environ |= {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "create", "--via", "prefect", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"deployment": "backup/daily-full", "exit_status": 1}


def test_a_bug_is_a_document_too(tmp_path: Path) -> None:
    code = "import sys; from pgproof.cli import main; main.build_parser = None; sys.exit(main.run(['list', '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["kind"] == "unexpected"
    assert "Traceback" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, str(SCRIPT), "restore", "latest", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert b"BrokenPipe" not in process.stderr.read()
    assert process.wait() == 3
