"""The fuzzer's targets without the fuzzer: their seeds, what once broke them, and some thousand random inputs."""

from __future__ import annotations

from random import Random

import pytest

from campaigns.fuzz import inputs
from campaigns.fuzz_targets import TARGETS

# Those that open a whole repository each time, or cut megabytes, get fewer.
_SLOW = {
    "dump_cuts": 40,
    "dump_map": 200,
    "key_slot": 200,
    "lease": 200,
    "map_store": 200,
    "names": 40,
    "small_json": 60,
    "verification": 100,
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_anything(name: str) -> None:
    target, random = TARGETS[name], Random(name)
    known = inputs(name)
    for data in known:
        target.try_one(data)
    for _ in range(_SLOW.get(name, 1000)):
        target.try_one(_changed(random.choice(known), random))


def test_every_target_accepts_or_reaches_what_it_is_for() -> None:
    """Seeds are no noise: most of them are what a writer would have written."""
    accepting = {name for name, target in TARGETS.items() if any(map(target.try_one, target.seeds()))}
    assert accepting >= {
        "manifest",
        "verification",
        "small_json",
        "map",
        "blob_body",
        "server_manifest",
        "names",
        "dump_cuts",
        "dump_records",
        "dump_map",
        "map_store",
        "globals_sql",
        "dump_list",
        "logical_manifest",
        "fingerprint",
    }


def _changed(data: bytes, random: Random) -> bytes:
    """A few bytes changed, put in, taken out or added."""
    changed = bytearray(data)
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(len(changed) + 1)
        how = random.randrange(4)
        if how == 0:
            changed[at : at + 1] = random.randbytes(1)
        elif how == 1:
            changed[at:at] = random.randbytes(random.randrange(1, 9))
        elif how == 2:
            del changed[at : at + random.randrange(1, 9)]
        else:
            changed += random.randbytes(random.randrange(1, 9))
    return bytes(changed)
