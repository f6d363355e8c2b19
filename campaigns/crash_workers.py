"""Rounds of a crash campaign, shared out to threads that each work on grounds of their own."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from campaigns.crash_ground import Ground

Round = TypeVar("Round")

_WORKERS = 2
# After so many failures of a worker the rest would say the same.
_MOST_FAILURES = 3


def on_grounds(
    rounds: Sequence[Round],
    at_once: int,
    ground_for: Callable[[int], Ground],
    carry_out: Callable[[Ground, Round], Iterable[str]],
) -> Counter[str]:
    """Carry out every round; `at_once` follow each other on one ground, a failed one is the last on its own.

    Returns how often each fact was told. Raises the first failure when all is done; the others are printed.
    """
    counts: Counter[str] = Counter()
    failures: list[Exception] = []
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="crash") as pool:
        for told, failed in pool.map(
            lambda worker: _work(worker, rounds, at_once, ground_for, carry_out), range(_WORKERS)
        ):
            counts += told
            failures += failed
    if failures:
        raise failures[0]
    return counts


def _work(
    worker: int,
    rounds: Sequence[Round],
    at_once: int,
    ground_for: Callable[[int], Ground],
    carry_out: Callable[[Ground, Round], Iterable[str]],
) -> tuple[Counter[str], list[Exception]]:
    counts: Counter[str] = Counter()
    failures: list[Exception] = []
    left = iter(rounds[worker::_WORKERS])
    number = worker
    following = next(left, None)
    while following is not None and len(failures) < _MOST_FAILURES:
        try:
            with ground_for(number) as ground:
                for _ in range(at_once):
                    if following is None:
                        break
                    each, following = following, next(left, None)
                    counts.update(_noted(each, carry_out(ground, each), ground))
        # It ends this ground only: the others are still worth trying, and the first failure is raised in the end.
        except Exception as error:  # noqa: BLE001
            traceback.print_exception(error)
            failures.append(error)
        print(f"ground {number}: {dict(sorted(counts.items()))}", flush=True)
        number += _WORKERS
    return counts, failures


def _noted(each: object, facts: Iterable[str], ground: Ground) -> Iterator[str]:
    """The facts of a round, whose name goes with its failure."""
    try:
        yield from facts
    except Exception as error:
        error.add_note(f"{each}, PostgreSQL {ground.major}")
        raise
