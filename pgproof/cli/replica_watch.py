"""`replicas watch`: a live table of the nodes, with the lag of the last minutes."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from pgproof.cli import text
from pgproof.cli.engine import open_replicas
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.replica_status import lag_seconds, node_table, notes, receiver, sync_state
from pgproof.cli.screen import Screen
from pgproof.cli.text import printable
from pgproof.cli.waiting import wait_for
from pgproof.cli.wal_stream import seconds
from pgproof.errors import PreconditionError
from pgproof.model.replica_history import Look, look_of
from pgproof.model.replica_status import NodeStatus, ReplicaStatus, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from pgproof.replica_manager import ReplicaManager

_DESCRIPTION = """Look at all nodes again and again, until Ctrl-C.

The line shows the lag against its limits: a full block is at a limit or beyond, × is a node
that did not answer. Without a terminal each look is printed below the one before; with
--json each is one line."""

_BLOCKS = "▁▂▃▄▅▆▇█"
# So many looks are remembered: a quarter of an hour at the usual interval.
_SHOWN = 450


def add_commands(actions: Subparsers) -> None:
    parser = add_command(actions, "watch", watch, "show every node in a live table", _DESCRIPTION)
    parser.add_argument("--interval", metavar="SECONDS", type=seconds, default=2.0, help="look so often (2)")
    parser.add_argument("--count", metavar="N", type=whole_number, default=0, help="end after so many looks")


def watch(args: argparse.Namespace, screen: Screen) -> int:
    # An interrupt is how it ends.
    with contextlib.suppress(KeyboardInterrupt), _shown(screen) as show:
        wait_for(_watch(open_replicas(args), args.interval, args.count, show))
    return Exit.OK


async def _watch(
    manager: ReplicaManager,
    interval: float,
    count: int,
    show: Callable[[ReplicaStatus, Sequence[Look], float], None],
) -> None:
    looks: list[Look] = []
    async for status in _looks(manager, interval, count, looks):
        show(status, looks, interval)


async def _looks(
    manager: ReplicaManager, interval: float, count: int, looks: list[Look]
) -> AsyncIterator[ReplicaStatus]:
    """One status after the other, each in `looks` when it comes."""
    import asyncio

    remembered: tuple[Look, ...] = ()
    # Somebody else's memory may be out of reach; then it begins here.
    with contextlib.suppress(PreconditionError):
        remembered = (await manager.history()).looks
    made = 0
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval
        status = await manager.status((*remembered, *looks))
        looks.append(look_of(status))
        del looks[:-_SHOWN]
        yield status
        made += 1
        if made == count:
            return
        await asyncio.sleep(max(0.0, due - loop.time()))


@contextlib.contextmanager
def _shown(screen: Screen) -> Iterator[Callable[[ReplicaStatus, Sequence[Look], float], None]]:
    """What shows a look: a document, lines, or the place of the one before on a terminal."""
    if screen.as_json:
        yield lambda status, looks, interval: screen.document(status.to_json(), indent=None)
    elif not sys.stdout.isatty():
        yield lambda status, looks, interval: _lines(screen, status)
    else:
        from rich.live import Live

        console = screen.console(to_error=False)
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda status, looks, interval: live.update(
                live_view(status, looks, interval, console), refresh=True
            )


def _lines(screen: Screen, status: ReplicaStatus) -> None:
    screen.say(f"{status.at.astimezone():%Y-%m-%d %H:%M:%S}")
    screen.table(node_table(status))
    for problem in status.problems:
        screen.say(f"✗ {problem.kind}: {problem.message}")
    screen.say()


def live_view(
    status: ReplicaStatus, looks: Sequence[Look], interval: float, console: Console
) -> RenderableType:
    """The table with what is wrong below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    width = min(60, max(10, console.width - 74))
    covered = (looks[-1].at - looks[max(0, len(looks) - width)].at).total_seconds()
    limits = f"limits {text.duration(status.limits.lag_seconds)} and {text.size(status.limits.lag_bytes)}"
    title = f"Cluster {printable(status.cluster)}   {status.at.astimezone():%H:%M:%S}, every {interval:g} s   {limits}"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns = (
        ("node", "left"),
        ("role", "left"),
        ("lag", "right"),
        ("behind", "right"),
        (f"last {text.duration(covered)}" if covered else "lag", "left"),
        ("receiver", "left"),
        ("sync", "left"),
        ("timeline", "right"),
    )
    # A narrow terminal shows what comes first whole.
    shown = len(columns) if console.width >= 100 else len(columns) - 2
    for name, justify in columns[:shown]:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    troubled = {problem.node for problem in status.problems}
    for node in status.nodes:
        style = "bold red" if node.name in troubled else "green" if node.role is Role.PRIMARY else ""
        spark = sparkline(looks[-width:], node.name)
        table.add_row(*map(Text, _cells(node, spark)[:shown]), style=style)
    lines: list[RenderableType] = [Text(title, "bold"), table]
    for problem in status.problems:
        lines.append(Text(printable(f"✗ {problem.kind}: {problem.message}"), "red"))
        lines.append(Text(printable(f"  HINT: {problem.hint}")))
    if status.ok:
        lines.append(Text("✓ Every node is where it should be.", "green"))
    lines += [Text(printable(note), "yellow") for note in notes(status)]
    return Group(*lines)


def _cells(node: NodeStatus, spark: str) -> tuple[str, ...]:
    lag, state = node.lag, node.state
    return (
        printable(node.name),
        str(node.role),
        lag_seconds(node),
        "–" if lag is None else text.size(lag.nbytes),
        spark,
        receiver(node),
        printable(sync_state(node)),
        "–" if state is None else str(state.timeline),
    )


def sparkline(looks: Sequence[Look], node: str) -> str:
    """A block for each look, as high as the lag is against its limits; nothing for the primary."""
    found = []
    for look in looks:
        seen = look.nodes.get(node)
        if seen is None or seen.role == Role.PRIMARY:
            found.append(" ")
        elif seen.lag_bytes is None:
            found.append("×")
        else:
            share = seen.lag_bytes / max(1, look.max_lag_bytes)
            if seen.lag_seconds is not None:
                share = max(share, seen.lag_seconds / look.max_lag_seconds)
            found.append(_BLOCKS[min(len(_BLOCKS) - 1, int(share * len(_BLOCKS)))])
    return "".join(found)
