"""One fuzzing process: `python -m campaigns.fuzz_child TARGET CORPUS [libFuzzer options]`."""

from __future__ import annotations

import importlib
import sys
import warnings


def main() -> None:
    name, *arguments = sys.argv[1:]
    atheris = importlib.import_module("atheris")
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["pgproof"]):
        targets = importlib.import_module("campaigns.fuzz_targets").TARGETS
    target = targets[name]

    def one(data: bytes) -> None:
        target.try_one(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
