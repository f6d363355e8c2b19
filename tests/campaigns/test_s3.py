"""Small shares of the campaigns against an object store that fails (full sizes: `make campaign`)."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import ModuleType

import pytest

from campaigns import s3_faults, s3_soak, s3_whole_faults, store_kills
from campaigns.campaign import Campaign


@pytest.mark.parametrize(
    ("module", "share"),
    [(s3_faults, 0.004), (s3_soak, 0.002), (store_kills, 0.02), (s3_whole_faults, 0.013)],
    ids=["faults", "soak", "kills", "whole"],
)
def test_a_small_share_passes(module: ModuleType, share: float, tmp_path: Path) -> None:
    name = module.__name__.rpartition(".")[2]
    module.run(Campaign(name, secrets.randbelow(1_000_000), share, tmp_path))
