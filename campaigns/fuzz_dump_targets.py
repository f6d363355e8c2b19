"""What the fuzzer feeds to the parsers of logical backups: chunks, records, maps, what pg_dump says and lists, fingerprints."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import numpy as np

from campaigns.fuzz_input import Input, mutate_json
from campaigns.small_dump import BASE, OID, OWNER, make_small_dump
from campaigns.small_repository import PAGE
from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.chunks import HEAD_LENGTH, LEAST, LOOK_AHEAD, MOST, RECORD_SIZE, contents, cuts, put_record
from pgproof.model.dump_contents import entries, missing_entries
from pgproof.model.dump_files import directory_of
from pgproof.model.dump_list import list_for_table
from pgproof.model.dump_log import dump_failure, dump_warnings, restore_failure
from pgproof.model.filemap import DIRECTORY, FILE, RUN_TYPE, ZEROS, SegmentBuilder, check_path
from pgproof.model.fingerprints import compare_databases
from pgproof.model.globals_sql import memberships, roles, statements
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.source_fingerprint import SourceFingerprint
from pgproof.model.table_names import TableName
from pgproof.repository.blobs import decode_json
from pgproof.repository.dump_reader import DumpReader
from pgproof.repository.map_store import FileColumns, named_packs, store_maps
from pgproof.repository.run_table import RunTable

_DUMP = make_small_dump()
_OWNERS = (OWNER, BASE)
_ERRORS = (PreconditionError, TransientError, DataError, ConflictError)
# Enough for a cut that is decided before the end is known.
_LARGEST_DUMP = LOOK_AHEAD + (200 << 10)
_LARGEST_READ = 8 << 20
_MOST_FILES = 40
_PATHS = (
    b"databases/16385/1.dat",
    b"databases/16385/toc.dat",
    b"databases/16385/2.dat",
    b"databases",
    b"databases/16385",
    b"globals.sql",
)


def dump_cuts(data: bytes) -> None:
    """A dump of repeated pieces: nothing is lost, sizes have bounds, and how much is looked at decides nothing."""
    dump = memoryview(_dump_of(Input(data)))
    found = _cut(dump, LOOK_AHEAD)
    assert b"".join(found) == dump, "something was lost"
    assert all(0 < len(chunk) <= MOST for chunk in found), "a chunk of an impossible size"
    assert all(len(chunk) >= LEAST for chunk in found[:-1]), "a chunk is too small"
    assert found == _cut(dump, len(dump)), "a cut depends on how much was read"
    assert list(contents([_records(found, PAGE)], PAGE)) == found


def _dump_of(choice: Input) -> bytes:
    found = bytearray()
    while choice.left and len(found) < _LARGEST_DUMP:
        times, piece = choice.number(2) + 1, choice.piece()
        found += piece * min(times, (_LARGEST_DUMP - len(found)) // max(1, len(piece)) + 1)
    return bytes(found)


def _cut(dump: memoryview, at_once: int) -> list[bytes]:
    at, found = 0, []
    while at < len(dump):
        piece = dump[at : at + at_once]
        begun = at
        for end in cuts(piece, final=at + len(piece) == len(dump)):
            found.append(bytes(dump[at : begun + end]))
            at = begun + end
    return found


def _records(chunks: list[bytes], page_size: int) -> bytes:
    room, found = memoryview(bytearray(RECORD_SIZE)), bytearray()
    for chunk in chunks:
        found += room[: put_record(memoryview(chunk), room, page_size) * page_size]
    return bytes(found)


def cut_seeds() -> list[bytes]:
    row = b"1\tx\n"
    return [
        struct.pack("<HB", 65_000, len(row)) + row + struct.pack("<HB", 9, 5) + b"22222",
        struct.pack("<HB", 40_000, 100) + b"no rows at all, " * 6 + b"end.",
    ]


def dump_records(data: bytes) -> None:
    """Pages as they are stored, in pieces of any number of them: what is accepted is what a writer would have written."""
    choice = Input(data)
    page_size, at_once, flags = choice.one_of([512, 1024, 8192]), choice.number(1) % 8 + 1, choice.number(1)
    pages = bytearray(choice.rest())
    if flags & 1:
        pages += bytes(-len(pages) % page_size)
    if flags & 2 and len(pages) > HEAD_LENGTH:
        struct.pack_into("<I", pages, 0, struct.unpack_from("<I", pages)[0] % len(pages))
    step = at_once * page_size
    found = list(contents((bytes(pages[at : at + step]) for at in range(0, len(pages), step)), page_size))
    assert _records(found, page_size) == pages


def record_seeds() -> list[bytes]:
    records = _records([b"1\tone\n" * 50, b"x"], 512)
    return [bytes([0, at_once, 0]) + records for at_once in (0, 7)]


def dump_map(data: bytes) -> None:
    """The map of a logical backup, read as a restore does: what is listed is read within its size, or refused."""
    choice = Input(data)
    payload = choice.rest() if choice.number(1) % 2 == 0 else _built_map(choice)
    repository = _DUMP.repository()
    reader = DumpReader(repository, _DUMP.with_map(repository, payload), Job())
    total, refused = 0, None
    for file in reader.files(OID):
        check_path(file.path)
        assert file.path == directory_of(OID) + b"/" + file.name and b"/" not in file.name
        read = 0
        try:
            for chunk in reader.read(file.path):
                assert 1 <= len(chunk) <= MOST
                read += len(chunk)
                if read + total > _LARGEST_READ:
                    return
        except DataError as error:
            refused = error
        assert read <= file.stored_size, "more than the map says"
        total += read
    if refused is not None:
        raise refused


def _built_map(choice: Input) -> bytes:
    """One that is well formed: runs cover their files, but lead anywhere."""
    built = SegmentBuilder()
    paths = {
        choice.one_of(_PATHS) if choice.number(1) % 4 else choice.piece() or b"x"
        for _ in range(choice.number(1) % 6)
    }
    for path in sorted(paths):
        runs, at = [], 0
        for _ in range(choice.number(1) % 8):
            pages, owner = choice.number(1) % 4 + 1, choice.one_of([0, 1, 0, ZEROS])
            runs.append((at, pages, owner, choice.number(1) % 2, choice.number(1) % 16))
            at += pages
        kind = FILE if runs else choice.one_of([FILE, DIRECTORY])
        odd = choice.one_of([0, 0, 0, 1])
        built.add(path, kind, max(0, at * PAGE - odd), 0o600, np.array(runs, RUN_TYPE), _OWNERS)
    return built.encode()


def dump_map_seeds() -> list[bytes]:
    return [b"\0" + _DUMP.payload, b"\1\2\1\0\1\1\1\1\0\0\0\0"]


def map_store(data: bytes) -> None:
    """Any files with any runs: the segments that are stored say the same, in the order of the paths."""
    choice = Input(data)
    files, runs = FileColumns(), RunTable(rows_in_memory=64)
    wanted: dict[bytes, tuple[int, int, int, list[object]]] = {}
    while choice.left and len(wanted) < _MOST_FILES:
        path = choice.piece()
        if path in wanted:
            continue
        check_path(path)
        pages: list[object] = []
        mode, number = choice.number(2), len(wanted)
        for _ in range(choice.number(1) % 12):
            count, owner = choice.number(1) + 1, choice.one_of([0, 1, 1, ZEROS])
            pack, page = (0, 0) if owner == ZEROS else (choice.number(1), choice.number(2))
            runs.add(number, len(pages), count, owner, pack, page)
            pages += [ZEROS if owner == ZEROS else (_OWNERS[owner], pack, page + at) for at in range(count)]
        kind = FILE if pages else choice.one_of([FILE, DIRECTORY])
        files.add(path, kind, len(pages) * PAGE, mode)
        wanted[path] = kind, len(pages) * PAGE, mode, pages
    runs.finish()
    repository = _DUMP.repository()
    refs, _stored = store_maps(repository, files, runs, _OWNERS, Job())
    assert all(a.first < b.first for a, b in pairwise(refs)), "segments are not in order"
    found: dict[bytes, tuple[int, int, int, list[object]]] = {}
    for ref in refs:
        segment = repository.segment(ref, PAGE)
        for entry in segment.files:
            rows: list[object] = []
            for _at, count, owner, pack, page in segment.runs_of(entry).tolist():
                rows += [
                    ZEROS if owner == ZEROS else (segment.owners[owner], pack, page + n) for n in range(count)
                ]
            found[entry.path] = entry.kind, entry.size, entry.mode, rows
    assert list(found) == sorted(wanted) and found == wanted
    places = {place[:2] for *_rest, rows in wanted.values() for place in rows if isinstance(place, tuple)}
    assert set(named_packs(runs, _OWNERS)) == {owner for owner, _pack in places}


def map_store_seeds() -> list[bytes]:
    file = bytes([5]) + b"1.dat" + b"\x80\1" + b"\2" + b"\3\0\0\1\0" + b"\3\0\0\5\0"
    other = bytes([6]) + b"10.dat" + b"\x80\1" + b"\2" + b"\7\1\2\1\0" + b"\1\3"
    return [file + other, file]


def globals_sql(data: bytes) -> None:
    """Any text; or, with a first byte that is odd, what pg_dumpall would write for a role of any name and password."""
    choice = Input(data)
    if choice.number(1) % 2 == 0:
        _any_globals(choice.rest().decode("utf-8", "surrogateescape"))
    else:
        name = choice.piece().decode("utf-8", "surrogateescape").replace("\0", "") or "x"
        _written_globals(name, choice.rest().decode("utf-8", "surrogateescape").replace("\0", ""))


def _any_globals(text: str) -> None:
    found = list(statements(text))
    assert sum(map(len, found)) <= len(text), "something was made up"
    at = 0
    for statement in found:
        at = _after(text, statement, at)
    made = roles(text)
    for role, commands in made.items():
        assert commands[0].startswith("CREATE ROLE ") and role
        assert all(each in found and each.startswith(("CREATE ROLE ", "ALTER ROLE ")) for each in commands)
    assert all(any(each.startswith(grant) for each in found) for grant in memberships(text))


def _after(text: str, statement: str, at: int) -> int:
    """Its characters stand in the text in this order; comments may lie between."""
    for character in statement:
        at = text.index(character, at) + 1
    return at


def _written_globals(name: str, noise: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    literal = noise.replace("'", "''")
    literal = "E'" + literal.replace("\\", "\\\\") + "'" if "\\" in noise else f"'{literal}'"
    commands = [f"CREATE ROLE {quoted}", f"ALTER ROLE {quoted} WITH LOGIN PASSWORD {literal}"]
    grant = f"GRANT {quoted} TO {quoted} WITH INHERIT TRUE"
    comment = f"COMMENT ON ROLE {quoted} IS {literal}"
    text = "\\restrict x\n\n-- Roles\n" + ";\n".join([*commands, comment, f"{grant} GRANTED BY {quoted}", ""])
    assert roles(text) == {name: commands}
    assert memberships(text) == [grant]


def globals_seeds() -> list[bytes]:
    return [
        b"\0\\restrict x\nSET a = off;\n-- it's\nCREATE ROLE a;\nALTER ROLE a WITH PASSWORD E'\\'';\n"
        b'GRANT a TO "b""c" WITH INHERIT TRUE GRANTED BY postgres;\n\\unrestrict x\n',
        b"\1\4a\"b;it's \\ -- E'",
    ]


def dump_log(data: bytes) -> None:
    """Whatever a program says: one of the four errors, with a hint, and no more of its words than fit into one."""
    text = data.decode("utf-8", "replace")
    for error in (dump_failure("pg_dump", 1, text), restore_failure(1, text)):
        assert isinstance(error, _ERRORS) and error.message and error.hint
        assert "{0}" not in error.message and len(str(error.context)) < 10_000 and str(error)
    found = dump_warnings(text)
    assert len({each.message for each in found}) == len(found) <= text.count("warning: ")
    json.dumps([each.to_json() for each in found])


def log_seeds() -> list[bytes]:
    return [
        b'pg_dump: error: query failed: ERROR:  permission denied for table "t"\npg_dump: detail: x\n',
        b"pg_dump: error: aborting because of server version mismatch\n"
        b"pg_dump: detail: server version: 18.6; pg_dump version: 15.20\n",
        b'pg_dump: warning: subscriptions not dumped\npg_dump: error: no matching tables were found for pattern "x*"',
        b'pg_restore: error: could not execute query: ERROR:  extension "postgis" is not available',
        b"pg_restore: error: connection to server at x failed: FATAL:  sorry, too many clients already",
    ]


def dump_list(data: bytes) -> None:
    """The list of a dump, and what of it is wanted: lines of the list, and entries that it has."""
    choice = Input(data)
    schema = choice.piece().decode("utf-8", "replace")
    table = TableName(schema, choice.piece().decode("utf-8", "replace"))
    text = choice.rest().decode("utf-8", "surrogateescape")
    # As pg_restore writes a name into its list.
    shown = f"{table.schema} {table.table}".replace("\n", " ").replace("\r", " ")
    line = f"7; 0 16384 TABLE DATA {shown} owner"
    lines = text.split("\n")
    for listing in (text, "\n".join([*lines, line, "8; 0 16385 TABLE DATA another one owner"])):
        kept = list_for_table(listing, table).split("\n")[:-1]
        assert set(kept) <= set(listing.split("\n")), "a line that nobody wrote"
    assert line in kept
    found = entries(text)
    assert len(found) <= len(lines) and all(each.number >= 0 for each in found)
    assert found == entries(text + "\n;\n")
    objects = {each.number for each in found if each.is_object}
    everything = set(missing_entries(found, objects, large_objects=True))
    nothing = set(missing_entries(found, (), large_objects=False))
    assert nothing <= everything <= set(found)
    assert not any(each.is_object and not each.is_large_object for each in nothing), "it exists already"


def list_seeds() -> list[bytes]:
    text = (
        b";\n; Archive created\n;\n5; 2615 2200 SCHEMA - public owner\n211; 1259 16384 TABLE public t owner\n"
        b";\tdepends on: 5\n3340; 0 16384 TABLE DATA public t owner\n;\tdepends on: 211\n3341; 0 0 ACL public TABLE t owner\n"
        b";\tdepends on: 211\n3342; 2613 4711 BLOB - 4711 owner\n3300; 0 0 ENCODING - ENCODING \n"
    )
    return [b"\6public\1t" + text]


def logical_manifest(data: bytes) -> None:
    """A manifest with databases: what is accepted is stored as the same again, and names no database twice."""
    payload = mutate_json(data, json.dumps(_DUMP.manifest.to_json()).encode())
    manifest = Manifest.from_json(decode_json(payload, "a/manifest"))
    again = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
    assert again.to_json() == manifest.to_json() and again.databases == manifest.databases
    json.dumps(manifest.info().to_json(), ensure_ascii=False).encode()
    assert len({each.name for each in manifest.databases}) == len(manifest.databases) <= 10_000
    for each in manifest.databases:
        check_path(directory_of(each.oid))


def logical_manifest_seeds() -> list[bytes]:
    return [b"\0" + json.dumps(_DUMP.manifest.to_json()).encode(), b"\1\1\3\5", b"\1\2\7\1\1\4"]


def fingerprint(data: bytes) -> None:
    """Fingerprints of a source: what is accepted is written as the same again, equals itself, and can be shown."""
    found = SourceFingerprint.from_json(decode_json(mutate_json(data, _FINGERPRINT), "a/fingerprint"))
    document = json.dumps(found.to_json())
    again = SourceFingerprint.from_json(json.loads(document))
    assert again.to_json() == found.to_json() and again.databases == found.databases
    assert found.taken_at.tzinfo is not None and found.timeline > 0 and found.rows >= 0
    for database in found.databases:
        compared = compare_databases(database, database)
        assert compared.same and compared.rows == database.rows
        "\n".join([compared.summary(), *compared.lines()]).encode()


_FINGERPRINT = json.dumps(
    {
        "format": 1,
        "system_identifier": "7300000000000000001",
        "timeline": 1,
        "lsn": "0/2000028",
        "taken_at": "2026-11-25T10:00:00+00:00",
        "seconds": 1.5,
        "databases": [
            {
                "database": "app",
                "encoding": "UTF8",
                "tables": [{"schema": "public", "name": "t", "rows": 3, "hash": "-12", "one_in": 4}],
                "unread": [{"schema": "public", "name": "u", "reason": "permission denied"}],
            }
        ],
        "snapshots": ["740:745:741,743"],
    }
).encode()


def fingerprint_seeds() -> list[bytes]:
    return [b"\0" + _FINGERPRINT, b"\1\1\3\5", b"\1\2\7\1\1\4"]
