"""Who takes over from whom, what that would lose, and why it may not be done. Pure.

A plan is made also where nothing may be done: then it says so (`refusals`), and still shows what is known of every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.failover_evidence import (
    Answers,
    Archived,
    FailoverRequest,
    LastPrimary,
    NodeFacts,
    silent,
)
from pgproof.model.failover_loss import Loss, loss_of
from pgproof.model.failover_nodes import Roles, Verdict, cluster_of, judge_nodes, rank, roles_of
from pgproof.model.failover_refusals import Case, Refusal, refusals_of
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY, ReplicationConfig


class Kind(StrEnum):
    """FAILOVER: nobody writes, a standby takes over. SWITCHOVER: the primary is alive, is ended cleanly, and loses nothing.
    FINISH: the node has taken over already; what is left is to lead the others to it."""

    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody agrees to: who takes over, and in which way."""

    node: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} to {self.node or 'nobody'}"


@dataclass(frozen=True, slots=True)
class FailoverPlan:
    """`node` takes over (empty if none can), `fence` are the nodes that must be ended before, `follow` those that are led to
    it. `segment_size` is the cluster's."""

    at: datetime
    kind: Kind
    node: str
    fence: tuple[str, ...]
    follow: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    loss: Loss | None
    unfenced: bool
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def decision(self) -> Decision:
        return Decision(self.node, self.kind)

    @property
    def allowed(self) -> bool:
        return not self.refusals

    def require(self) -> None:
        """Raises PreconditionError, or ConflictError, with the first reason why this may not be done."""
        if not self.refusals:
            return
        first = self.refusals[0]
        kind = ConflictError if first.conflict else PreconditionError
        nodes = "; ".join(f"{each.node}: {each.reason}" for each in self.verdicts)
        raise kind(first.message, hint=first.hint, nodes=nodes)

    def noting(self, note: str) -> Self:
        """The plan with one more note; itself for an empty one."""
        return replace(self, notes=(*self.notes, note)) if note else self

    def verdict(self, node: str) -> Verdict:
        return next(each for each in self.verdicts if each.node == node)

    def sentence(self) -> str:
        """What is to happen, in one line."""
        if not self.node:
            return "No node can take over."
        old = ", ".join(self.fence) or "nobody"
        return {
            Kind.FAILOVER: f"Failover: {self.node} takes over from {old}.",
            Kind.SWITCHOVER: f"Switchover: {self.node} takes over from {old}, which is ended cleanly.",
            Kind.FINISH: f"{self.node} has taken over already: what is left is to lead the others to it.",
        }[self.kind]

    def lines(self) -> list[str]:
        """For people: first what would happen, then each node with its reason."""
        found = [self.sentence()]
        for each in self.verdicts:
            place = ""
            if each.state is not None:
                place = (
                    f" timeline {each.timeline}, received {each.held}, replayed {each.state.replayed or '-'},"
                )
            found.append(f"  {each.node}:{place} {each.reason}")
        found += [f"  {line}" for line in self.facts()]
        found += [f"Note: {note}" for note in self.notes]
        for each_refusal in self.refusals:
            found += [f"Refused: {each_refusal.message}", f"  HINT: {each_refusal.hint}"]
        return found

    def facts(self) -> list[str]:
        """What would be lost, and what is done beside the promotion."""
        found = []
        if self.loss is not None and self.kind is not Kind.FINISH:
            found += self.loss.lines()
        if self.fence and self.kind is not Kind.FINISH:
            how = (
                "nothing ends it (--unfenced)"
                if self.unfenced
                else "by the fence command, and looked at twice"
            )
            found.append(f"fence {', '.join(self.fence)}: {how}")
        if self.follow:
            found.append(f"led to {self.node}: {', '.join(self.follow)}")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "kind": str(self.kind),
            "node": self.node or None,
            "fence": list(self.fence),
            "unfenced": self.unfenced,
            "follow": list(self.follow),
            "nodes": [each.to_json() for each in self.verdicts],
            "loss": self.loss.to_json() if self.loss else None,
            "notes": list(self.notes),
            "allowed": self.allowed,
            "refusals": [each.to_json() for each in self.refusals],
        }


def plan_failover(
    answers: Answers,
    replication: ReplicationConfig,
    request: FailoverRequest,
    at: datetime,
    *,
    facts: Mapping[str, NodeFacts] | None = None,
    last: LastPrimary | None = None,
    archive: Archived | None = None,
    patroni_leader: str = "",
) -> FailoverPlan:
    """`answers` are those of all configured nodes, asked at one time; `last` is the primary as it was last seen."""
    facts = facts or {}
    cluster = cluster_of(answers, archive)
    roles = roles_of(answers, cluster)
    kind = _kind(answers, request, roles)
    current = roles.current
    verdicts = judge_nodes(answers, replication, cluster, archive, current)
    possible = [each for each in verdicts if each.eligible]
    best = max(possible, key=lambda each: rank(each, replication), default=None)
    named = next((each for each in verdicts if each.node == request.node), None)
    chosen = named or best
    if kind is Kind.FINISH and current is not None:
        chosen = next(each for each in verdicts if each.node == current.node)
    fence = _to_fence(answers, roles, kind, last)
    case = Case(
        answers=answers,
        replication=replication,
        request=request,
        kind=str(kind),
        roles=roles,
        verdicts=verdicts,
        best=best,
        chosen=chosen,
        fence=fence,
        facts=facts,
        archive=archive,
        cluster=cluster,
        patroni_leader=patroni_leader,
    )
    loss = loss_of(chosen, verdicts, last, archive, facts) if chosen and chosen.state else None
    if loss is not None and kind is Kind.SWITCHOVER:
        why = "not needed, because it is promoted once it has all of the primary's WAL"
        loss = replace(loss, guaranteed=True, primary_bytes=0, primary_at=None, why=why)
    return FailoverPlan(
        at=at,
        kind=kind,
        node=chosen.node if chosen else "",
        fence=fence,
        follow=_followers(verdicts, chosen, fence),
        verdicts=verdicts,
        loss=loss,
        unfenced=request.unfenced,
        notes=tuple(_notes(case)),
        refusals=tuple(refusals_of(case)),
    )


def _kind(answers: Answers, request: FailoverRequest, roles: Roles) -> Kind:
    """A primary that took over from the configured one is what an interrupted failover left; the configured one itself is alive,
    and is replaced only by a node that is named."""
    current = roles.current
    if current is None:
        return Kind.FAILOVER
    if request.node:
        return Kind.FINISH if request.node == current.node else Kind.SWITCHOVER
    return Kind.FINISH if current.node != PRIMARY else Kind.SWITCHOVER


def _to_fence(answers: Answers, roles: Roles, kind: Kind, last: LastPrimary | None) -> tuple[str, ...]:
    """Every node that writes, or may write, beside the one that takes over."""
    found = [each.node for each in (*roles.stale, *roles.rivals)]
    if kind is Kind.SWITCHOVER and roles.current is not None:
        found.append(roles.current.node)
    away = [node for node, answer in answers.items() if not isinstance(answer, NodeState)]
    if kind is Kind.FAILOVER:
        known = last.node if last is not None and last.node in away else PRIMARY
        # If it is none of these two, each that does not answer may be it.
        found += [known] if known in away else away
    elif PRIMARY in away:
        found.append(PRIMARY)
    return tuple(dict.fromkeys(found))


def _followers(
    verdicts: Sequence[Verdict], chosen: Verdict | None, fence: tuple[str, ...]
) -> tuple[str, ...]:
    if chosen is None or chosen.state is None:
        return ()
    same = chosen.state.system_identifier
    return tuple(
        each.node
        for each in verdicts
        if each.state is not None
        and each.state.in_recovery
        and each.state.system_identifier == same
        and each.node not in (chosen.node, *fence)
    )


def _notes(case: Case) -> list[str]:
    found = []
    streaming = [
        each.node
        for each in case.verdicts
        if each.state is not None and each.state.in_recovery and each.state.receiver == "streaming"
    ]
    if case.kind == Kind.FAILOVER and streaming:
        found.append(
            f"{', '.join(streaming)} still streams from somebody: the primary may be alive, and only out of our sight"
        )
    chosen = case.chosen
    if chosen is not None and chosen.state is not None and chosen.node in case.facts:
        may = case.facts[chosen.node]
        if not may.may_checkpoint and case.kind != Kind.SWITCHOVER:
            found.append(
                f"no checkpoint can be asked for, and pg_rewind waits for the next: GRANT pg_checkpoint TO {may.user}"
            )
        if may.conninfo_source and may.upstream is None:
            found.append(f"{chosen.node} does not show its settings: GRANT pg_monitor TO {may.user}")
    for node in case.fence:
        answer = case.answers.get(node)
        if answer is not None and not isinstance(answer, NodeState) and not silent(answer):
            found.append(f"{node} is alive, although it cannot be asked: {answer.message}")
    return found
