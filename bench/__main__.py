"""Measure us and others: `python -m bench [--parts NAME,…] [--rounds 3] [--results FILE]`.

Makes data on real servers, runs the contenders in turn, prints one table and stores it with every measurement:
bench/results/bench.json and bench.md. A part that runs again replaces its own section there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import backups
from bench.parts import PARTS
from bench.recording import Results, about

RESULTS = Path(__file__).parent / "results" / "bench.json"


def main() -> None:
    options = parsed()
    results = Results(options.results)
    work = Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/tmp"))
    work.chmod(0o755)
    try:
        for name in options.parts:
            part = PARTS[name]
            part.run(options, work, results.begin(name, about(part.majors, options.rounds)))
    finally:
        shutil.rmtree(work)
    if not options.profile:
        text = markdown(results.sections)
        options.results.with_suffix(".md").write_text(text)
        print(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        metavar="NAME,…",
        help=f"{', '.join(PARTS)} (all)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians (3)")
    parser.add_argument("--place", choices=["directory", "S3"], help="this place only, and the limits")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    only = parser.add_argument_group("backups")
    only.add_argument("--gigabytes", type=float, default=2.0, help="size of the cluster (2; logical: half)")
    only.add_argument(
        "--only", default="", metavar="NAME,…", help="contenders whose names begin so, such as pgproof"
    )
    only.add_argument("--major", type=int, help="this PostgreSQL version only")
    only.add_argument(
        "--profile", action="store_true", help="our operations under cProfile, and nothing else"
    )
    only = parser.add_argument_group("WAL")
    only.add_argument("--segments", type=int, default=30, help="wal: segments of 16 MB (30)")
    only.add_argument("--rate", type=float, default=50.0, help="stream: megabytes of WAL a second (50)")
    only.add_argument("--seconds", type=float, default=60.0, help="stream: how long (60)")
    only.add_argument("--commits", type=int, default=1000, help="commit: how many (1000)")
    only.add_argument("--wal-gigabytes", type=float, default=1.0, help="replay: WAL to replay (1)")
    parser.add_argument("--reads", type=int, default=20_000, help="reads: how many of each kind (20000)")
    parser.add_argument("--backups", type=int, default=10_000, help="catalog: backups in it (10000)")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    if options.profile:
        options.parts = ["backups"]
    if "backups" in options.parts and not backups.chosen(options):
        parser.error("nobody of that name")
    return options


def markdown(sections: Mapping[str, Any]) -> str:
    return "\n".join(
        f"## {part.title}\n\n{part.markdown(section['about'], section['measurements'])}\n"
        for name, part in PARTS.items()
        if (section := sections.get(name)) and section["measurements"]
    )


if __name__ == "__main__":
    main()
