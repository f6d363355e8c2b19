"""Tell people through Apprise, which knows Slack, Teams, PagerDuty, mail and a hundred others by URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.config import BackupConfig


def teller(config: BackupConfig) -> Callable[[str, str], None]:
    """What sends a subject and a body to `notify_url`, one or more URLs with spaces or commas between.

    Raises PreconditionError where none is configured or one is no URL of Apprise's, and is never more precise: a
    URL is a secret. What is returned raises TransientError if a service did not take the message.
    """
    if not config.notify_url:
        raise PreconditionError(
            "nobody to tell is configured",
            hint="set BACKUP_NOTIFY_URL, such as slack://… or json://host/path (docs/notifications.md)",
        )
    import apprise

    with _quiet():
        services = apprise.Apprise()
        usable = services.add(config.notify_url)
    if not usable or not len(services):
        raise PreconditionError(
            "the notification URL is not understood",
            hint="correct BACKUP_NOTIFY_URL; https://appriseit.com lists the forms",
        )

    def tell(subject: str, body: str) -> None:
        with _quiet():
            taken = services.notify(body=body, title=subject, body_format=apprise.NotifyFormat.TEXT)
        if not taken:
            raise TransientError(
                "a notification was not taken by every service it was sent to",
                hint="see whether the service answers, and whether BACKUP_NOTIFY_URL is still right",
            )

    return tell


@contextmanager
def _quiet() -> Iterator[None]:
    """Apprise logs URLs that it does not understand, whole."""
    logger = logging.getLogger("apprise")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
