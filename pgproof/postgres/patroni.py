"""Ask a Patroni who leads (its REST API, GET /cluster). We change nothing there."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.patroni import PatroniView

_LARGEST = 4 << 20
# Members are neighbours: no proxy of the environment lies between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def patroni_leader(urls: Sequence[str], seconds: float) -> PatroniView:
    """What the first of these that answers says, all within about `seconds`. A member answers for the whole cluster, and only
    while it reaches Patroni's store.

    Raises TransientError if none of them answers.
    """
    if not urls:
        raise PreconditionError("no address of a Patroni is configured", hint="set REPLICA_PATRONI_URLS")
    end = time.monotonic() + seconds
    reasons = []
    for number, url in enumerate(urls):
        share = (end - time.monotonic()) / (len(urls) - number)
        try:
            with _opener.open(f"{url.rstrip('/')}/cluster", timeout=max(0.05, share)) as answer:
                return PatroniView.from_json(json.loads(answer.read(_LARGEST)))
        except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
            reasons.append(f"{url}: {str(error) or type(error).__name__}")
    raise TransientError(
        "no Patroni answers",
        hint="see whether its REST endpoints are reached from here, and whether it reaches its store",
        reason="; ".join(reasons),
    )
