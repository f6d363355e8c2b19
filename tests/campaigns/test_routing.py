"""A sample of the campaign, and that its judge can say no."""

from __future__ import annotations

import random
import secrets
import time
from pathlib import Path

import pytest

from campaigns import routing
from campaigns.campaign import Campaign
from campaigns.routing_faults import Round
from campaigns.routing_judge import Judge
from campaigns.routing_load import Call, Load
from campaigns.routing_view import View
from campaigns.routing_world import Promotion, World
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.token import Token
from pgproof.replication import ReadReplicaRouter


def test_a_sample(tmp_path: Path) -> None:
    campaign = Campaign("routing", secrets.randbelow(1_000_000), 0.01, tmp_path)
    print(f"seed {campaign.seed}")
    routing.run(campaign)


NOW = time.time()
BEFORE, AFTER = Token(1, Lsn(900)), Token(1, Lsn(1100))  # the branch is at 1000


def _of(kind: str, **facts: object) -> Call:
    call = Call(kind, NOW - 1, 7, end=NOW - 0.9, server="b.1", at=NOW - 0.95, lsn=Lsn(2000), saw=True)
    for name, value in facts.items():
        setattr(call, name, value)
    return call


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (_of("plain", error="TransientError"), "failed, and need not"),
        (_of("plain", error="raw"), "raw"),
        (_of("plain", server="a.0"), "led to a deposed server"),
        (_of("write", server="a.0", token=AFTER), "led to a deposed server"),
        (_of("write", token=BEFORE), "a timeline that was left"),
        (_of("token", token=BEFORE, saw=False), "older than its token"),
        (_of("token", token=BEFORE, error="DataError"), "called lost, and is not"),
        (_of("plain", server="c.2", recovering=True, lsn=Lsn(100)), "over the limit"),
        (_of("write", token=Token(2, Lsn(1500))), "an acknowledged write is missing"),
        (_of("plain"), ""),
        (_of("token", token=BEFORE), ""),
        (_of("token", token=AFTER, error="DataError"), ""),
        (_of("write", token=AFTER, start=NOW - 30, end=NOW - 30, at=NOW - 30, server="a.0"), ""),
        (_of("plain", server="c.2", recovering=True, lsn=Lsn(1900)), ""),
    ],
)
def test_the_judge_says_no(call: Call, words: str, tmp_path: Path) -> None:
    """To what must not be, twenty seconds after b has taken over from a; and to nothing else."""
    world = World(18, "replication", timeline=2, primary="b")
    world.promotions.append(Promotion("b.1", "a.0", False, 1, 2, Lsn(1000), NOW - 20, NOW - 20))
    router = ReadReplicaRouter(PostgresConfig(host="127.0.0.1"))
    load = Load(router, 0, 1.0, random.Random(0))
    now = Round("unfenced failover", world, View(router), load, random.Random(0), 2.0, 1.0, 1.0, 500, 30.0)
    now.begun, now.silent_after = NOW - 21, {"a.0": NOW - 18}
    now.view.timelines[2] = NOW - 19
    judge = Judge(Campaign("routing", 0, 0.01, tmp_path), world, 500, 30.0)
    # The primary's positions are known from what it answers.
    load.reads = [_of("plain", start=NOW - 10, end=NOW - 10, at=NOW - 10)]
    (load.writes if call.kind == "write" else load.reads).append(call)
    judge.round(now)
    judge.end(set())
    assert (words in " ".join(judge.wrong)) if words else not judge.wrong, judge.wrong
