"""Settings that cannot be right are refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_input.program import Program

# The arguments after `create`, the words and the hint.
ARGUMENTS: list[tuple[list[str], str, str]] = [
    (["--cluster", "Main Cluster"], "not a usable cluster name", "lower-case letters"),
    (["--cluster", "../main"], "not a usable cluster name", "lower-case letters"),
    (["--cluster", "x" * 64], "not a usable cluster name", "at most 63"),
    (["--compression-level", "0"], "the compression level is out of range", "1 (fast) to 19 (small)"),
    (["--compression-level", "20"], "the compression level is out of range", "1 (fast) to 19 (small)"),
    (["--max-rate", "31"], "the maximum rate is out of range", "32 to 1048576"),
    (["--max-rate", "1048577"], "the maximum rate is out of range", "32 to 1048576"),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), ARGUMENTS)
def test_an_argument_out_of_range(plain: Program, arguments: list[str], message: str, hint: str) -> None:
    plain.refused("create", *arguments, message=message, hint=hint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "partial"], "invalid choice: 'partial'"),
        (["--max-rate", "fast"], "not a whole number: 'fast'"),
        (["--compression-level", "-1"], "--compression-level"),
        (["--password", "planted-secret"], "unrecognized arguments"),
    ],
)
def test_a_command_line_that_is_not_understood(plain: Program, arguments: list[str], message: str) -> None:
    plain.refused("create", *arguments, status=2, message=message, hint="--help")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("BACKUP_ENCRYPTION", "perhaps", "neither on nor off"),
        ("BACKUP_COMPRESSION", "2", "neither on nor off"),
        ("BACKUP_RETENTION_DAYS", "a month", "not a number"),
    ],
)
def test_a_variable_that_cannot_be_read(plain: Program, variable: str, value: str, message: str) -> None:
    for command in ("create", "check"):
        plain.refused(command, message=message, hint=variable, env={variable: value})


def test_a_configuration_file(plain: Program, tmp_path: Path) -> None:
    file = tmp_path / "pgproof.toml"
    config = ["list", "--config", str(file)]
    plain.refused(*config, message="cannot be read", hint="--config")
    file.write_text('[postgres]\nport = "70000"\n')
    plain.refused(*config, message="not a number from 1 to 65535", hint="5432")
    file.write_text('[backup]\npasphrase = "x"\n')
    plain.refused(*config, message="unknown setting", hint="passphrase_file")
    file.write_text('[postgres]\npassword = "planted-secret"\n')
    file.chmod(0o644)
    error = plain.refused(*config, message="others can read the secrets", hint=f"chmod 600 {file}")
    assert "planted-secret" not in str(error)
