"""What an object store's answers mean: worth another try, missing, or an error for somebody to act on."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError


class Unusable(Exception):
    """An answer that does not fit the question."""


class Missing(DataError):
    """An object that is not there, told apart from a damaged one."""


# obstore raises Python's own error for a missing object, beside the one it documents.
MISSING = (NotFoundError, FileNotFoundError)
ERRORS = (BaseError, FileNotFoundError, Unusable)
# The operator's business at the first answer; and refusals that say what is wrong with the request. 404 of an object
# that is listed or written, 408, 409 and 429 may be otherwise the next time.
_FINAL = (PermissionDeniedError, UnauthenticatedError, UnknownConfigurationKeyError)
_FINAL_STATUS = re.compile(r"status code: 4(?!04|08|09|29)\d\d")


@dataclass(frozen=True, slots=True)
class Patience:
    """A request is given up after `request` seconds, and a call after so many `tries`; none begins after
    `total` seconds. Long enough for a store to restart, short enough that a run ends while somebody still looks."""

    request: float = 120.0
    tries: int = 9
    total: float = 150.0

    def pause(self, tried: int) -> float:
        return float(min(10.0, 0.1 * 2**tried) * random.uniform(0.5, 1.0))


def translated(error: Exception, location: str, key: str) -> EngineError:
    """The engine's error for one of ERRORS."""
    if isinstance(error, MISSING) and not _no_bucket(error):
        return Missing("an object is missing", key=key)
    if _no_bucket(error):
        return PreconditionError(
            "the bucket does not exist",
            hint="create it, or correct its name, region or endpoint",
            location=location,
        )
    text = str(error)
    if "RequestTimeTooSkewed" in text:
        return PreconditionError(
            "the object store's clock differs from this machine's by too much",
            hint="set this machine's clock (NTP), then run it again",
            location=location,
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(
        word in text for word in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
    ):
        return PreconditionError(
            "the object store refused the request",
            hint="check the access key and secret, and that they may list, read, create and delete here",
            location=location,
            key=key,
        )
    if isinstance(error, UnknownConfigurationKeyError):
        return PreconditionError("unknown object store setting", hint="check s3_options", reason=text)
    return TransientError(
        "the object store did not answer",
        hint="check the endpoint and the network, then run it again; nothing was half stored",
        location=location,
        key=key,
        reason=_first_line(text),
    )


def worth_repeating(error: Exception) -> bool:
    """Whether the same request may get another answer."""
    text = str(error)
    if isinstance(error, _FINAL) or _no_bucket(error):
        return False
    # AlreadyExists and missing objects are told by the status, too. "RequestTimeout" comes as 400.
    expected = isinstance(error, (AlreadyExistsError, *MISSING)) or "RequestTimeout" in text
    return expected or _FINAL_STATUS.search(text) is None


def _no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else ""
