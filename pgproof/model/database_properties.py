"""What belongs to a database and not to what is in it, and the names of databases that are being built.

pg_dump of one database leaves these out; they are carried over from the one that is replaced or copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

NEW = re.compile(r"pgproof_new_([0-9a-f]{8})\Z")
_LONGEST_NAME = 63
# Settings whose value is a list of names: quoted as one value it would be one name (pg_dump's dumputils.c).
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)
_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,\s]*))\s*(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Grant:
    """A right on the database; an empty grantee is PUBLIC."""

    grantee: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """ALTER DATABASE … SET, or of one role in this database where `role` is not empty."""

    role: str
    name: str
    value: str

    def values(self) -> list[str]:
        """What stands behind TO, as separate values."""
        return _items(self.value) if self.name.lower() in _LISTS else [self.value]


@dataclass(frozen=True, slots=True)
class DatabaseProperties:
    """`provider` of collations is "libc", "icu" or "builtin"; `locale` is ICU's or the builtin one's, else empty.

    Without `owner` or `tablespace` the server's choice; `grants` None are the rights that a new database has.
    """

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str = ""
    icu_rules: str = ""
    owner: str = ""
    tablespace: str = ""
    connection_limit: int = -1
    comment: str | None = None
    grants: tuple[Grant, ...] | None = None
    settings: tuple[Setting, ...] = ()
    is_template: bool = False

    @property
    def roles(self) -> set[str]:
        """The roles that these properties name."""
        named = {grant.grantee for grant in self.grants or ()} | {setting.role for setting in self.settings}
        return {*named, self.owner} - {""}

    def without(
        self, *, owners: bool = False, privileges: bool = False, tablespaces: bool = False
    ) -> DatabaseProperties:
        kept = self
        if owners:
            kept = replace(kept, owner="")
        if privileges:
            kept = replace(kept, grants=None, settings=tuple(each for each in kept.settings if not each.role))
        return replace(kept, tablespace="") if tablespaces else kept

    def only_settings(self, known: Iterable[str]) -> tuple[DatabaseProperties, list[str]]:
        """Without the settings that a server with the parameters `known` does not have, and the names of those."""
        names = {name.lower() for name in known}
        kept = [each for each in self.settings if "." in each.name or each.name.lower() in names]
        lost = sorted({each.name for each in self.settings} - {each.name for each in kept})
        return replace(self, settings=tuple(kept)), lost


def new_name(run: int) -> str:
    """What a database is called while it is being built."""
    return f"pgproof_new_{run:08x}"


def run_of(name: str) -> int | None:
    """The run that builds the database of this name, None for any other name."""
    found = NEW.match(name)
    return int(found[1], 16) if found else None


def dated_name(name: str, word: str, now: datetime) -> str:
    """`app_before_20261126103000`: at most as long as PostgreSQL allows."""
    end = f"_{word}_{now:%Y%m%d%H%M%S}"
    beginning = name.encode()[: _LONGEST_NAME - len(end)]
    return beginning.decode(errors="ignore") + end


def _items(value: str) -> list[str]:
    """Like SplitGUCList; an empty list is one empty value."""
    items, at = [], 0
    while at < len(value):
        found = _LIST_ITEM.match(value, at)
        if found is None or found.end() == at:
            return [value]
        quoted, bare = found.groups()
        items.append(quoted.replace('""', '"') if quoted is not None else bare)
        at = found.end()
    return items or [""]
