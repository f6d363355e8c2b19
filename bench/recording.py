"""The file of results: a section for each part that was ever run, with the machine and all that was measured.

A part that runs again replaces its own section. Ratios are made within one section, so that each is of one run.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.postgres import find_bin


class Results:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.sections: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def begin(self, part: str, about: Mapping[str, Any]) -> Section:
        section = Section(self, part, dict(about), [])
        self.sections[part] = {"about": section.about, "measurements": section.measurements}
        return section

    def store(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self.sections, indent=1) + "\n")


@dataclass(frozen=True)
class Section:
    """`about` may be added to; every measurement is printed and stored at once."""

    results: Results
    part: str
    about: dict[str, Any]
    measurements: list[Mapping[str, Any]]

    def add(self, measured: Any) -> None:
        """A dataclass."""
        print(f"{self.part}: {measured}", flush=True)
        self.measurements.append(
            {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in asdict(measured).items()
            }
        )
        self.results.store()


def about(majors: Sequence[int], rounds: int) -> dict[str, Any]:
    """The machine and the programs, so that figures can be judged."""
    programs = [[str(find_bin(major) / "postgres"), "--version"] for major in majors]
    if shutil.which("pgbackrest"):
        programs.append(["pgbackrest", "version"])
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "programs": [
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            for command in programs
        ],
    }


def machine_line(about: Mapping[str, Any]) -> str:
    return (
        f"{about['cores']} cores ({about['processor']}), {about['memory_gb']} GB of memory, {about['system']}; "
        f"{', '.join(about['programs'])}; {about['date']}. Medians of {about['rounds']}, everyone in turn."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
