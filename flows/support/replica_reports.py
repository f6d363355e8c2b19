"""The state of replicas as rows of a table, as a report with charts, and as a message. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from flows.support.replica_charts import lag_chart
from flows.support.reports import human_duration, human_size, human_time, inline, markdown_table
from pgproof.cli.replica_status import lag_seconds, notes, receiver, slot, sync_state
from pgproof.model.alarms import Message
from pgproof.model.objectives import Broken
from pgproof.model.replica_history import Look
from pgproof.model.replica_status import ReplicaStatus
from pgproof.model.replica_summary import by_day, lag_series

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


def replica_rows(status: ReplicaStatus) -> list[dict[str, str]]:
    """A row for each node, with what is wrong with it; then what is wrong with none of them."""
    rows = []
    for node in status.nodes:
        wrong = [each for each in status.problems if each.node == node.name]
        rows.append(
            {
                "Node": node.name,
                "Role": f"{'✗' if wrong else '✓'} {node.role}",
                "Lag": lag_seconds(node),
                "Behind": "–" if node.lag is None else human_size(node.lag.nbytes),
                "Timeline": "–" if node.state is None else str(node.state.timeline),
                "Replayed": "–" if node.state is None else str(node.state.reached),
                "Receiver": receiver(node),
                "Sync": sync_state(node),
                "Slot": slot(node, status),
                "Conflicts": "–" if node.new_conflicts is None else str(node.new_conflicts),
                "Problem": " ".join(f"{each.message}. HINT: {each.hint}" for each in wrong),
            }
        )
    names = {node.name for node in status.nodes}
    for each in status.problems:
        if each.node not in names:
            empty = dict.fromkeys(rows[0], "")
            rows.append(
                {
                    **empty,
                    "Node": each.node,
                    "Role": f"✗ {each.kind}",
                    "Problem": f"{each.message}. HINT: {each.hint}",
                }
            )
    return rows


def replica_report(
    status: ReplicaStatus, looks: Sequence[Look], broken: Sequence[Broken], told: Message | None, note: str
) -> str:
    """What is wrong first, then the lag of the last hour and day, then day by day."""
    parts = [f"# Replicas of `{status.cluster}`"]
    if status.problems:
        # A table of sentences would not fit the page.
        parts.append(
            "\n".join(
                f"- **✗ {inline(each.key)}**: {inline(each.message)}. HINT: {inline(each.hint)}"
                for each in status.problems
            )
        )
    else:
        parts.append("**✓ Every node is where it should be.**")
    for length, title in ((_HOUR, "Lag in the last hour"), (_DAY, "Lag in the last day")):
        series = lag_series(looks, status.at, length)
        if series is not None and (length == _HOUR or series.end - series.start > _HOUR):
            parts.append(lag_chart(series, title).markdown())
    parts.append(
        "Dashed are the limits. A bar is orange while its node did not answer, and empty where nobody looked."
    )
    if days := by_day(looks):
        parts.append("## Day by day")
        header = ("Day (UTC)", "Node", "Looks", "Within limits", "Median", "p99", "Maximum", "Bytes")
        parts.append(
            markdown_table(
                header,
                [
                    (
                        f"{each.day}",
                        each.node,
                        f"{each.looks:,}",
                        _share(each.within),
                        *map(_duration, (each.median, each.p99, each.maximum)),
                        "–" if each.maximum_bytes is None else human_size(each.maximum_bytes),
                    )
                    for each in days
                ],
            )
        )
    lines = [*notes(status), *([note] if note else [])]
    now = {each.key for each in status.problems}
    lines += [f"not yet recovered: {each.key}" for each in broken if each.key not in now]
    lines += [] if told is None else [f"told: {told.subject}"]
    lines.append(f"as of {human_time(status.at)}")
    parts.append("\n".join(f"- {inline(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def replica_summary(status: ReplicaStatus) -> str:
    """One line."""
    if status.ok:
        return f"every node of {status.cluster} is where it should be"
    return f"{len(status.problems)} wrong: {', '.join(each.key for each in status.problems)}"


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else human_duration(seconds) if seconds else "0 s"


def _share(share: float | None) -> str:
    """Not 100 % unless it is."""
    if share is None:
        return "–"
    return f"{min(100 * share, 99.99 if share < 1 else 100):.4g} %"


def replica_message(status: ReplicaStatus) -> str:
    """A line for each thing that is wrong, with its HINT."""
    if status.ok:
        return f"every node of {status.cluster} is where it should be"
    lines = [f"{each.key}: {each.message}\nHINT: {each.hint}" for each in status.problems]
    return "\n".join([f"the replicas of {status.cluster} need attention", *lines])


def changed(looks: Sequence[Look]) -> bool:
    """Whether the newest look is not like the one before: what is wrong, or who is what."""
    if len(looks) < 2:
        return True
    before, now = looks[-2:]
    roles = [{name: node.role for name, node in each.nodes.items()} for each in (before, now)]
    return set(before.problems) != set(now.problems) or roles[0] != roles[1]
