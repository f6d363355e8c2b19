"""What pg_dumpall wrote of a cluster's roles, read as statements: psql, whose commands it may hold, never sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PIECE = re.compile(
    r"""
    (?P<comment> --[^\n]* )
  | (?P<quoted>  "(?:[^"]|"")*" )
  | (?P<escaped> \b[eE]'(?:[^'\\]|''|\\.)*' )
  | (?P<text>    '(?:[^']|'')*' )
  | (?P<end>     ; )
  | (?P<other>   [^;"'-]+? (?=[;"'-]|\b[eE]'|\Z) | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK = re.compile(r"(?:\s+|\\[^\n]*(?:\n|\Z))*")
_NAME = r'(?:"(?:[^"]|"")*"|[a-z_\u0080-\uffff][a-z0-9_$\u0080-\uffff]*)'
_CREATE = re.compile(rf"CREATE ROLE (?P<name>{_NAME})\Z")
_ALTER = re.compile(rf"ALTER ROLE (?P<name>{_NAME}) WITH ", re.DOTALL)
_MEMBER = re.compile(rf"(?P<grant>GRANT {_NAME} TO {_NAME}(?: WITH [A-Z, ]+?)?)(?: GRANTED BY {_NAME})?\Z")


def statements(text: str) -> Iterator[str]:
    """The statements without their semicolons; psql's own commands, a line each, are left out."""
    found: list[str] = []
    at = 0
    while at < len(text):
        if not found:
            # Between statements: white space, and what psql would take for itself.
            blank = _BLANK.match(text, at)
            at = blank.end() if blank else at
        piece = _PIECE.match(text, at)
        if piece is None:
            break
        at = piece.end()
        if piece.lastgroup == "end":
            yield "".join(found)
            found = []
        elif piece.lastgroup != "comment":
            found.append(piece[0])
    if found:
        yield "".join(found).strip()


def roles(text: str) -> dict[str, list[str]]:
    """For each role the statements that make it and give it its attributes, without memberships and settings."""
    found: dict[str, list[str]] = {}
    for statement in statements(text):
        made = _CREATE.match(statement)
        given = _ALTER.match(statement)
        if made:
            found.setdefault(_unquoted(made["name"]), []).append(statement)
        elif given and _unquoted(given["name"]) in found:
            found[_unquoted(given["name"])].append(statement)
    return found


def memberships(text: str) -> list[str]:
    """The statements that make roles members of others, whoever granted it."""
    found = map(_MEMBER.match, statements(text))
    return [match["grant"] for match in found if match]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
