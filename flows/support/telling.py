"""Tell people through a notification block of Prefect's: Slack, Teams, PagerDuty, a webhook, mail."""

from __future__ import annotations

from collections.abc import Callable

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block

from flows.support.publishing import UNREACHABLE
from pgproof.errors import PreconditionError, TransientError


def block_teller(slug: str) -> Callable[[str, str], None]:
    """What tells through the block of this name, such as `slack-webhook/ops`.

    Raises PreconditionError if there is none. What is returned raises TransientError if nobody was told, without the
    reason: that may hold the address, which is a secret.
    """
    try:
        block = Block.load(slug)
    except ValueError as error:
        raise PreconditionError(
            "there is no notification block of this name",
            hint="create it in the UI, and give its type and name, such as slack-webhook/ops",
            block=slug,
        ) from error
    if not isinstance(block, NotificationBlock):
        raise PreconditionError(
            "this block notifies nobody",
            hint="name a notification block, such as slack-webhook/ops",
            block=slug,
        )

    def tell(subject: str, body: str) -> None:
        try:
            with block.raise_on_failure():
                _ = block.notify(body, subject)  # typed as awaitable; sent, where no loop runs
        except (NotificationError, *UNREACHABLE) as error:
            raise TransientError(
                "the notification was not taken",
                hint="see whether the service answers, and whether the block's address is still right",
                block=slug,
                reason=type(error).__name__,
            ) from None

    return tell
