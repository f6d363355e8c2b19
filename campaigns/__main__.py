"""Run campaigns: `python -m campaigns [NAME …] [--seed N] [--share 1.0]`.

Prints the seed first, so that a failure can be repeated, and one line of counts for each campaign at the end;
the same is stored in campaigns/results/NAME.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from campaigns.campaign import Campaign

RESULTS = Path(__file__).parent / "results"
_NOT_CAMPAIGNS = {"__init__", "__main__", "campaign"}


def names() -> list[str]:
    """Every module here that has a function `run(campaign)`."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in found if name not in _NOT_CAMPAIGNS and hasattr(_module(name), "run")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them if none is named")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--share", type=float, default=1.0, help="1.0 is the full campaign")
    options = parser.parse_args()
    known = names()
    for name in options.names:
        if name not in known:
            parser.error(f"no campaign {name}; there are {', '.join(known)}")
    failed = [name for name in options.names or known if not run(name, options.seed, options.share)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)} (seed {options.seed})")


def run(name: str, seed: int, share: float) -> bool:
    """Whether the campaign passed; its result is printed and stored either way."""
    print(f"{name}: seed {seed}, share {share:g}", flush=True)
    place = Path(tempfile.mkdtemp(prefix=f"pgproof-{name}-"))
    place.chmod(0o755)
    campaign = Campaign(name, seed, share, place)
    begun, error = time.monotonic(), ""
    try:
        _module(name).run(campaign)
    # A campaign may end in any way; the others are still run, and the end says which failed.
    except Exception as failure:  # noqa: BLE001
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
    if not error:
        shutil.rmtree(place)
    _store(campaign, time.monotonic() - begun, error)
    return not error


def _store(campaign: Campaign, seconds: float, error: str) -> None:
    result = {
        "campaign": campaign.name,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": campaign.seed,
        "share": campaign.share,
        "seconds": round(seconds),
        "passed": not error,
        "counts": dict(sorted(campaign.counts.items())),
        "notes": campaign.notes,
    }
    if campaign.share >= 1:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{campaign.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    counts = ", ".join(f"{what} {number:,}" for what, number in sorted(campaign.counts.items()))
    end = f"FAILED, {error}; files kept in {campaign.place}" if error else "passed"
    print(f"{campaign.name}: {end} in {seconds:.0f} s: {counts}", flush=True)


def _module(name: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"campaigns.{name}")


if __name__ == "__main__":
    main()
