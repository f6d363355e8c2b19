"""Write WAL at a steady rate: `python -m bench.wal_load RATE SECONDS`; libpq's variables say where.

RATE is in bytes a second. What is written compresses about 2.6:1, as the pages of a busy server do, and comes again
only after 64 MB, which is farther than zstd looks back. It lies in messages without a transaction, so that nothing but
WAL is written; every megabyte is flushed, as commits would. There is one connection for each 25 MB/s. Says `ready`
when it begins, and the bytes of the messages at the end.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

_POOL = 64 << 20
_MESSAGE = 128 << 10
_FLUSH_EVERY = 8
_BYTES_A_CONNECTION = 25_000_000
_GOODS = ("books", "shoes", "garden chairs", "coffee", "a bicycle", "two lamps")
_STATES = ("paid", "open", "returned", "sent to the wrong address", "cancelled by telephone")


def content(size: int, seed: int) -> bytes:
    """Rows as people write them, each with 28 bytes of chance."""
    chance = random.Random(seed)
    rows, length = [], 0
    while length < size:
        number = chance.randrange(1_900_000)
        rows.append(
            b"%d order of customer %d for %s, %s; reference %s\n"
            % (
                number,
                number % 9973,
                _GOODS[number % 6].encode(),
                _STATES[number % 5].encode(),
                chance.randbytes(28).hex().encode(),
            )
        )
        length += len(rows[-1])
    return b"".join(rows)[:size]


def write(pool: bytes, rate: float, seconds: float) -> int:
    """One connection's share, from its own place of the pool on."""
    written = 0
    with psycopg.connect(autocommit=True) as connection:
        begun = time.monotonic()
        for number in range(sys.maxsize):
            passed = time.monotonic() - begun
            if passed >= seconds:
                break
            time.sleep(max(0.0, written / rate - passed))
            place = number * _MESSAGE % len(pool)
            message = pool[place : place + _MESSAGE]
            connection.execute(
                "SELECT pg_logical_emit_message(false, 'bench', %b::bytea, %b::bool)",
                (message, number % _FLUSH_EVERY == 0),
                prepare=True,
            )
            written += len(message)
    return written


def main(arguments: list[str]) -> None:
    rate, seconds = float(arguments[0]), float(arguments[1])
    connections = max(1, round(rate / _BYTES_A_CONNECTION))
    pools = [content(_POOL // connections, seed) for seed in range(connections)]
    print("ready", flush=True)
    with ThreadPoolExecutor(connections) as pool:
        print(sum(pool.map(lambda each: write(each, rate / connections, seconds), pools)))


if __name__ == "__main__":
    main(sys.argv[1:])
