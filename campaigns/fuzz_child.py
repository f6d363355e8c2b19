"""One fuzzing process: `python -m campaigns.fuzz_child TARGET CORPUS [libFuzzer options]`."""

from __future__ import annotations

import importlib
import operator
import sys
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

# As Python numbers them in its code for comparisons.
_OPERATIONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge)
_TOLD = (int, str, bytes)


def main() -> None:
    name, *arguments = sys.argv[1:]
    atheris: Any = importlib.import_module("atheris")
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["pgproof"]):
        targets = importlib.import_module("campaigns.fuzz_targets").TARGETS
    target = targets[name]

    def one(data: bytes) -> None:
        # Atheris puts its own there when it begins, so ours comes after.
        if not isinstance(atheris._trace_cmp, FunctionType):
            atheris._trace_cmp = _without_leak(atheris._trace_cmp)
        target.try_one(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def _without_leak(trace: Callable[..., Any]) -> Callable[..., Any]:
    """Atheris 3.0 keeps the result of every comparison for ever: a gigabyte of arrays after a while. It learns nothing from
    arrays, so they are kept from it."""

    def compare(left: Any, right: Any, operation: int, *more: Any) -> Any:
        if isinstance(left, _TOLD) and isinstance(right, _TOLD):
            return trace(left, right, operation, *more)
        return _OPERATIONS[operation](left, right)

    return compare


if __name__ == "__main__":
    main()
