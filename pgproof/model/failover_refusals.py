"""Why a failover may not be done, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgproof.model.failover_evidence import Answers, Archived, FailoverRequest, NodeFacts, silent
from pgproof.model.failover_nodes import Roles, Verdict
from pgproof.model.node import NodeState
from pgproof.model.replication_config import PRIMARY, ReplicationConfig

# The values of failover_plan.Kind, which imports this module.
_FAILOVER, _SWITCHOVER, _FINISH = "failover", "switchover", "finish"
_NAME_IT = "if another node is to take its place, name it: pgproof replicas promote NODE"


@dataclass(frozen=True, slots=True)
class Refusal:
    message: str
    hint: str
    conflict: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class Case:
    """All that a refusal may be about."""

    answers: Answers
    replication: ReplicationConfig
    request: FailoverRequest
    kind: str
    roles: Roles
    verdicts: tuple[Verdict, ...]
    best: Verdict | None
    chosen: Verdict | None
    fence: tuple[str, ...]
    facts: Mapping[str, NodeFacts]
    archive: Archived | None
    cluster: int | None
    patroni_leader: str


def refusals_of(case: Case) -> Iterator[Refusal]:
    """The gravest first."""
    yield from _others_decide(case)
    yield from _no_truth(case)
    if case.kind == _FINISH:
        return
    yield from _nobody(case)
    yield from _less_than_the_best(case)
    yield from _no_fence(case)
    yield from _no_right(case)


def _others_decide(case: Case) -> Iterator[Refusal]:
    if case.replication.patroni_urls:
        leader = case.patroni_leader or "it cannot be asked now"
        yield Refusal(
            f"Patroni manages this cluster, and decides who is the primary (now: {leader})",
            "use `patronictl switchover` or `patronictl failover`; a promotion behind its back would be undone",
        )


def _no_truth(case: Case) -> Iterator[Refusal]:
    if case.roles.rivals:
        rivals = (case.roles.current, *case.roles.rivals)
        names = ", ".join(each.node for each in rivals if each is not None)
        yield Refusal(
            f"more than one node is out of recovery on the newest timeline: {names}",
            "no measurement tells which is right: stop the wrong one, and make it again with `pgproof replicas rebuild`",
            conflict=True,
        )
    if case.cluster is None and any(isinstance(each, NodeState) for each in case.answers.values()):
        yield Refusal(
            "the nodes are of different clusters",
            "correct READ_REPLICA_HOSTS, or configure the repository, which knows the right one",
        )


def _nobody(case: Case) -> Iterator[Refusal]:
    request, chosen = case.request, case.chosen
    current = case.roles.current
    if case.kind == _SWITCHOVER and not request.node and current is not None:
        yield Refusal(f"the primary is alive and answers: {current.node}", _NAME_IT)
        return
    if request.node and request.node not in case.answers:
        yield Refusal(
            f"there is no node of this name: {request.node}", f"the nodes are {', '.join(case.answers)}"
        )
        return
    if chosen is None:
        yield Refusal(
            "no node can take over",
            "the reason is named for each; what a person can change (start it, resume its replay) may make it one. "
            "Else restore from the repository: pgproof restore latest --data-dir DIR",
        )
        return
    if not chosen.eligible:
        yield Refusal(
            f"{chosen.node} cannot take over: {chosen.reason}",
            f"the best one is {case.best.node}" if case.best else "no other one can either",
        )
    elif case.kind == _SWITCHOVER and chosen.state is not None and chosen.state.receiver != "streaming":
        may = case.facts.get(chosen.node)
        if may is not None and may.upstream is None:
            yield Refusal(
                f"the role {may.user} may not see whether {chosen.node} streams",
                f"run on the primary: GRANT pg_monitor TO {may.user}",
            )
            return
        yield Refusal(
            f"{chosen.node} does not stream, so that it would not get the end of the primary's WAL",
            "see its log and its primary_conninfo, and wait until it streams",
        )


def _less_than_the_best(case: Case) -> Iterator[Refusal]:
    """A switchover waits until the node has everything."""
    chosen, best = case.chosen, case.best
    if case.kind != _FAILOVER or case.request.accept_loss or chosen is None or best is None:
        return
    if not chosen.eligible:
        return
    timelines = {each.timeline for each in case.verdicts if each.eligible}
    if len(timelines) > 1:
        listed = ", ".join(f"{each.node} on {each.timeline}" for each in case.verdicts if each.eligible)
        yield Refusal(
            f"the replicas are on different timelines: {listed}",
            f"the newest is right unless you know better: name the node and add --accept-loss; a role without pg_monitor "
            f"sees a timeline late. The best one is {best.node}",
        )
    elif best.held > chosen.held:
        yield Refusal(
            f"{chosen.node} is {best.held - chosen.held:,} bytes behind {best.node}",
            f"promote {best.node}, or add --accept-loss to lose them",
        )
    archive = case.archive
    if archive is not None and archive.timeline > chosen.timeline:
        yield Refusal(
            f"the archive knows timeline {archive.timeline}, {chosen.node} is on {chosen.timeline}",
            "find the server that wrote it: two servers on one timeline cannot be archived. --accept-loss goes on, and is "
            "safe where the replica has a restore_command that sees the archive",
        )


def _no_fence(case: Case) -> Iterator[Refusal]:
    command, unfenced = case.replication.fence_command, case.request.unfenced
    alive = [
        node
        for node in case.fence
        if (answer := case.answers.get(node)) is not None
        and (answer.primary if isinstance(answer, NodeState) else not silent(answer))
    ]
    if alive and (unfenced or not command):
        yield Refusal(
            f"{', '.join(alive)} is alive, and nothing would end it",
            "configure a command that shuts it down cleanly: --fence-command, or REPLICA_FENCE_COMMAND",
        )
    elif not command and not unfenced:
        who = ", ".join(case.fence) or "a primary that is not configured"
        yield Refusal(
            f"there is no fence: {who} may come back, and two servers would write",
            "configure a command that ends it (--fence-command, or REPLICA_FENCE_COMMAND); --unfenced if you know that it is "
            "gone for good",
        )
    if not case.fence and case.kind == _FAILOVER and not unfenced:
        yield Refusal(
            f"all nodes answer, and none is the primary: none of them is {PRIMARY} to be fenced",
            "find out where the standbys stream from; --unfenced if there is no primary any more",
        )


def _no_right(case: Case) -> Iterator[Refusal]:
    chosen = case.chosen
    may = case.facts.get(chosen.node) if chosen is not None else None
    if chosen is None or may is None or not chosen.eligible:
        return
    # Rights are granted on a primary. Of a dead one no more can be had.
    or_else = "or connect as a superuser"
    if not may.may_promote:
        yield Refusal(
            f"the role {may.user} may not promote {chosen.node}",
            f"run on the primary: GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO {may.user}; {or_else}",
        )
    if not may.may_checkpoint and case.kind == _SWITCHOVER:
        yield Refusal(
            f"the role {may.user} may not ask {chosen.node} for a checkpoint, which proves that it has everything",
            f"run on the primary: GRANT pg_checkpoint TO {may.user}; {or_else}",
        )
