"""What a database names that lies outside of it, and so must exist on the server that gets a copy; and what is said of
the database itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# Bodies of functions may have such lines as well, seldom of roles that do not exist.
_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_]*)'
_OWNER = re.compile(rf"^ALTER [^;]*? OWNER TO ({_NAME});$", re.MULTILINE)
_GRANTS = re.compile(
    rf"^(?:GRANT|ALTER DEFAULT PRIVILEGES)\b[^;\n]*? TO ({_NAME})(?: WITH GRANT OPTION)?;$", re.MULTILINE
)
_GRANTOR = re.compile(
    rf"^(?:SET SESSION AUTHORIZATION|ALTER DEFAULT PRIVILEGES FOR ROLE) ({_NAME})", re.MULTILINE
)
_POLICY = re.compile(rf"^CREATE POLICY .*? TO ((?:{_NAME}(?:, )?)+)(?=;| USING | WITH CHECK )", re.MULTILINE)
_TABLESPACE = re.compile(rf"^SET default_tablespace = ({_NAME});$", re.MULTILINE)
_EXTENSION = re.compile(rf"^CREATE EXTENSION IF NOT EXISTS ({_NAME})", re.MULTILINE)
_OF_DATABASE = re.compile(
    r"^(?:ALTER DATABASE|COMMENT ON DATABASE|(?:GRANT|REVOKE) [A-Z, ]+ ON DATABASE|ALTER ROLE [^;\n]* IN DATABASE) "
    r"(?:'(?:[^']|'')*'|[^;'])*;$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class DatabaseNeeds:
    roles: frozenset[str]
    tablespaces: frozenset[str]
    extensions: frozenset[str]

    def without_tablespaces(self) -> DatabaseNeeds:
        return replace(self, tablespaces=frozenset())


def needs_of_script(script: str) -> DatabaseNeeds:
    """Of a dump, from the SQL for its schema as pg_restore prints it, without what `database_commands` finds."""
    inside = _OF_DATABASE.sub("", script)
    roles, places, extensions = (
        frozenset(
            name[1:-1].replace('""', '"') if name.startswith('"') else name
            for pattern in patterns
            for found in pattern.findall(inside)
            for name in re.findall(_NAME, found)
        )
        for patterns in ((_OWNER, _GRANTS, _GRANTOR, _POLICY), (_TABLESPACE,), (_EXTENSION,))
    )
    return DatabaseNeeds(roles, places, extensions)


def database_commands(script: str) -> list[str]:
    """The commands in it that give the database itself its owner, rights, settings and comment."""
    return _OF_DATABASE.findall(script)
