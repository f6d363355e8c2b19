"""The stand-alone restore program in every repository: nobody depends on this project to get their data back.

The program is `restore_without_pgproof.py` as it lies beside this module. Objects are never overwritten, so a
changed program is a new revision under a new name; repositories get it with their next backup.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from pgproof.errors import ConflictError, DataError
from pgproof.repository.bucket import Bucket

PROGRAM = Path(__file__).with_name("restore_without_pgproof.py")
REVISION = 3
# The SHA-256 of every revision, so that one that was changed in the store is noticed: it asks for passphrases.
SHA256 = {
    1: "db6a2e68ed2c00550cc7c4e6538ff8c5d21cffba7988891546485d1549035c31",
    2: "3aeda8f6fa69d32104af2777a5a0faaf629a611d7819811d716f83dd6aa6a9f2",
    3: "97deaf95eaa906f9e343f765a45133b5a9b080470b5eb26f0ade52003b876927",
}


def script_key(revision: int = REVISION) -> str:
    return f"restore-without-pgproof-{revision}.py"


def ensure_restore_script(bucket: Bucket) -> None:
    """Store the program unless it is there."""
    if bucket.head(script_key()) is None:
        # Somebody else may have stored it since we looked, or our own success was answered so.
        with contextlib.suppress(ConflictError):
            bucket.create(script_key(), PROGRAM.read_bytes())


def damaged_scripts(bucket: Bucket) -> list[DataError]:
    """Every stored revision that is not what was stored."""
    found = []
    for revision, digest in SHA256.items():
        key = script_key(revision)
        if bucket.head(key) is not None and hashlib.sha256(bucket.read(key)).hexdigest() != digest:
            hint = "do not run it and do not give it a passphrase; find out who changed it"
            found.append(DataError("the restore program was changed", hint=hint, key=key))
    return found
