"""A backup's relation files beside those of the server at rest, page by page; each difference needs a rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.model.filemap import FILE, printable
from pgproof.model.manifest import Manifest
from pgproof.model.relation_files import FSM, VM, relation_file
from pgproof.repository.content import Content
from pgproof.repository.repository import Repository

_PAGE = 8192


@dataclass
class Comparison:
    """`pages` were compared; `explained` counts differences by the rule that allows them, `wrong` names the others."""

    pages: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def compare_with_server(repository: Repository, manifest: Manifest, data_dir: Path) -> Comparison:
    """`data_dir` is the server's own, in which nothing was changed since the backup began."""
    found = Comparison()
    content = Content(repository)
    names: set[bytes] = set()
    for segment in repository.segments(manifest):
        for entry in segment.files:
            file = relation_file(entry.path)
            if entry.kind != FILE or file is None:
                continue
            names.add(entry.path)
            path = data_dir / printable(entry.path)
            there = path.read_bytes() if path.exists() else None
            if there is None:
                found.wrong.append(f"{printable(entry.path)} is not on the server")
                continue
            ours = content.read(segment, entry, _PAGE)
            _compare(found, printable(entry.path), file.fork, ours, there, manifest.start_lsn.value)
    for path in data_dir.glob("base/*/*"):
        name = str(path.relative_to(data_dir)).encode()
        if relation_file(name) is not None and name not in names:
            found.wrong.append(f"{printable(name)} is not in the backup")
    return found


def _compare(found: Comparison, path: str, fork: int, ours: bytes, theirs: bytes, start: int) -> None:
    for at in range(0, max(len(ours), len(theirs)), _PAGE):
        mine, its = ours[at : at + _PAGE], theirs[at : at + _PAGE]
        found.pages += 1
        if mine == its:
            continue
        lsn = int.from_bytes(its[0:4], "little") << 32 | int.from_bytes(its[4:8], "little")
        if lsn >= start:
            rule = "changed since the backup began"
        elif fork == VM and not any(mine):
            rule = "a page of a visibility map is zeros"
        elif fork == FSM:
            rule = "free space maps are not logged"
        elif not its and not any(mine):
            rule = "zeros behind the end"
        else:
            found.wrong.append(f"{path} page {at // _PAGE}: {_told(mine)} here, {_told(its)} on the server")
            continue
        found.explained[rule] += 1


def _told(page: bytes) -> str:
    if not page:
        return "nothing"
    if not any(page):
        return "zeros"
    return f"LSN {int.from_bytes(page[0:4], 'little'):X}/{int.from_bytes(page[4:8], 'little'):X}"
