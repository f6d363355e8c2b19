"""Words that nobody else would write, the forms in which a program may spill them, and where to look."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import quote, quote_plus

from tests.bad_input.watcher import Watcher

# Set where secrets are given on purpose: these processes have them in their environment rightly.
MARK = "PGPROOF_CANARIES_GIVEN"
_READ_AT_ONCE = 64 << 20


@dataclass
class Canaries:
    """Planted secrets by what they are."""

    random: Random
    words: dict[str, str] = field(default_factory=dict)
    _search: Search | None = None

    def plant(self, what: str, *, plain: bool = False) -> str:
        """A new secret; unless it must be plain, with characters that encodings change."""
        middle = "-" if plain else " /+%ü"
        return self.add(what, f"canary{middle}{self.random.randbytes(12).hex()}")

    def add(self, what: str, word: str) -> str:
        """A secret that somebody else has made."""
        self.words[what] = word
        self._search = None
        return word

    def search(self) -> Search:
        """For all that are planted until now."""
        if self._search is None:
            self._search = Search(
                {form: what for what, word in self.words.items() for form in forms_of(word)}
            )
        return self._search


def forms_of(word: str) -> set[bytes]:
    """The word in plain, as JSON, quoted for a URL, in hexadecimal, and in base64 with anything before it."""
    raw = word.encode()
    found = {raw, json.dumps(word)[1:-1].encode(), raw.hex().encode(), raw.hex().upper().encode()}
    found |= {quote(word, safe="").encode(), quote(word).encode(), quote_plus(word).encode()}
    for before in range(3):
        # The characters at both ends depend on the neighbours; those between are the same wherever it stands.
        encoded = base64.b64encode(b"\0" * before + raw)
        middle = encoded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        found |= {middle, middle.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


class Search:
    """Looks for every form of every canary; `looked_at` counts bytes."""

    def __init__(self, forms: dict[bytes, str]) -> None:
        self._forms = forms
        self._pattern = re.compile(
            b"|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        )
        # All but the recovery key begin alike, so a few quick looks settle nearly every case.
        self._stems = {form[:5] for form in forms}
        self._longest = max(map(len, forms))
        self.looked_at = 0

    def in_text(self, content: bytes | str) -> set[str]:
        """Which secrets are in there."""
        data = content.encode() if isinstance(content, str) else content
        self.looked_at += len(data)
        if not any(stem in data for stem in self._stems):
            return set()
        return {self._forms[found] for found in self._pattern.findall(data)}

    def in_file(self, path: Path) -> set[str]:
        found: set[str] = set()
        with path.open("rb") as file:
            tail = b""
            while piece := file.read(_READ_AT_ONCE):
                found |= self.in_text(tail + piece)
                tail = piece[-self._longest :]
        return found

    def in_folder(self, folder: Path) -> set[str]:
        """`secret in path` for every file below a folder, names included, and for the rows of SQLite databases."""
        found = set()
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                inside = self.in_file(path) | self.in_text(str(path))
                if path.suffix == ".db":
                    inside |= self.in_text("\n".join(_rows(path)))
                found |= {f"{what} in {path}" for what in inside}
        return found


def _rows(database: Path) -> Iterator[str]:
    """Everything in a database as SQL: a long value lies in pieces in its file."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        yield from connection.iterdump()


class Guard(Watcher):
    """Looks at the arguments of all processes, the environments of those that were not given the secrets, and
    at the small files that lie in `folders` for a moment only."""

    def __init__(self, canaries: Canaries, folders: list[Path]) -> None:
        super().__init__([])
        self._canaries = canaries
        self._folders = folders
        self.environments = self.files = 0

    def _look_at(self, process: Path) -> None:
        if process.name == "1":
            for folder in self._folders:
                self._look_into(folder)
        super()._look_at(process)
        name = (process / "comm").read_text().strip()
        environ = (process / "environ").read_bytes()
        if f"{MARK}=".encode() not in environ:
            self.environments += 1
            self._search(f"the environment of {name}", environ)

    def _look_into(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
                self.files += 1
                self._search(f"the passing file {path}", path.read_bytes())

    def _search(self, where: str, content: bytes) -> None:
        self.leaks |= {f"{what} in {where}" for what in self._canaries.search().in_text(content)}
