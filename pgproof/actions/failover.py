"""A failover: plan, end the old primary, promote, lead the others over, see that it holds.

Each step may be the last one that is done: run again, it looks at the nodes anew and goes on. Until the fence has done its
work, and we have seen that, nothing is changed on any node.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from pgproof.actions.failover_closing import close_failover
from pgproof.actions.failover_look import LOOK_SECONDS, Cluster, Evidence, cluster_of, look
from pgproof.actions.failover_steps import StepLog
from pgproof.actions.fence import require_fenced, run_fence, secrets_of
from pgproof.actions.promote import (
    Slots,
    held_by,
    keep_slots,
    look_at,
    promote,
    wait_for_everything,
    wait_for_quiet,
)
from pgproof.actions.repoint import NewPrimary, repoint
from pgproof.errors import ConflictError, EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.failover_evidence import FailoverRequest, LastPrimary
from pgproof.model.failover_plan import Decision, FailoverPlan, Kind
from pgproof.model.failover_report import FailoverReport
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_stream import DEFAULT_SLOT
from pgproof.postgres.asking import ask

_log = logging.getLogger(__name__)

_NO_SLOT = "create it: pgproof wal stream --create-slot; raise max_replication_slots if all are taken"


def prepare_failover(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    repository: BackupConfig | None,
    request: FailoverRequest,
    last: LastPrimary | None = None,
) -> FailoverPlan:
    """What would be done, and why it may not be; nothing is changed.

    `postgres` is the primary, or the one that was; `last` is how it was seen last. Raises PreconditionError where no replica is
    configured.
    """
    cluster = cluster_of(postgres, replication, repository)
    return look(cluster).plan(cluster, request, last)


def failover(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    repository: BackupConfig | None,
    request: FailoverRequest,
    job: Job,
    *,
    approved: Decision | None = None,
    last: LastPrimary | None = None,
    seconds: float = 60.0,
    slot: str = DEFAULT_SLOT,
) -> FailoverReport:
    """Do it. `seconds` bounds each wait: for the fence, the end of the WAL, the promotion, the others.

    Raises PreconditionError where the plan refuses, the fence fails or the old primary lives on: then nothing has been
    changed. ConflictError where what is found now is not what was `approved`. TransientError if a node stops to answer:
    the next run goes on.
    """
    cluster = cluster_of(postgres, replication, repository)
    log = StepLog(secrets_of(cluster.servers.values()))
    work = _Failover(cluster, request, job, last, seconds, slot, log)
    return work.run(approved)


@dataclass
class _Failover:
    cluster: Cluster
    request: FailoverRequest
    job: Job
    last: LastPrimary | None
    seconds: float
    slot: str
    log: StepLog

    def run(self, approved: Decision | None) -> FailoverReport:
        plan, evidence = self._plan(approved)
        begun = time.monotonic()
        received = self._fence(plan, evidence)
        failpoint("failover.fenced")
        kept: Lsn | None = None
        unwritable: float | None = None
        if plan.kind is not Kind.FINISH:
            plan = self._settle(plan, evidence, received)
            kept = plan.loss.kept if plan.loss else None
            failpoint("failover.ready")
        self._keep_slots(plan, evidence)
        state = self._promote(plan)
        if plan.kind is not Kind.FINISH:
            unwritable = time.monotonic() - begun
        failpoint("failover.promoted")
        primary = NewPrimary(plan.node, self.cluster.servers[plan.node], state, kept)
        at = time.monotonic()
        self.job.report("leading the others over")
        followers = repoint(primary, self.cluster.servers, plan.follow, self.seconds, self.job)
        self.log.step("lead the others over", at)
        failpoint("failover.repointed")
        self.job.report("looking at all of it once more")
        close_failover(self.log, self.cluster, plan, primary, self.seconds)
        report = FailoverReport(
            plan=plan,
            node=plan.node,
            timeline=state.timeline,
            old_timeline=plan.verdict(plan.node).timeline,
            branched_at=state.branched_at,
            steps=tuple(self.log.steps),
            followers=followers,
            unwritable_seconds=unwritable,
            notes=(*plan.notes, *self.log.notes),
        )
        _log.info(
            "failover kind=%s node=%s timeline=%d promised=%s branched=%s ok=%s",
            plan.kind,
            report.node,
            report.timeline,
            report.promised,
            report.branched_at,
            report.ok,
        )
        return report

    def _plan(self, approved: Decision | None) -> tuple[FailoverPlan, Evidence]:
        at = time.monotonic()
        self.job.report("asking the nodes")
        evidence = look(self.cluster)
        plan = evidence.plan(self.cluster, self.request, self.last)
        if approved is not None and approved != plan.decision:
            raise ConflictError(
                "what is found now is not what was planned",
                hint="nothing was changed; look at the new plan, and approve that",
                planned=approved,
                found=plan.decision,
            )
        plan.require()
        self.log.step("plan", at, detail=plan.sentence())
        return plan, evidence

    def _fence(self, plan: FailoverPlan, evidence: Evidence) -> Lsn:
        """End every node that writes or may write, and see that it does not. How far the standbys had received between."""
        received = Lsn(-1)
        command = self.cluster.replication.fence_command
        for node in plan.fence:
            server, at = self.cluster.servers[node], time.monotonic()
            answer = evidence.answers[node]
            # What was done already need not be done again to a node that is away.
            done = plan.kind is Kind.FINISH and not isinstance(answer, NodeState)
            if command and not self.request.unfenced and not done:
                self.job.report(f"ending {node}")
                said = run_fence(command, server, self.seconds, self.log.secrets, self.job)
                self.log.step(f"fence {node}", at, detail=said)
            received, _states = held_by(self._survivors(plan))
            at = time.monotonic()
            self.job.report(f"looking at {node}")
            try:
                seen = require_fenced(node, server, self.seconds, self.job)
            except PreconditionError as error:
                # There is no way back behind a promotion: the others are led over all the same.
                if plan.kind is not Kind.FINISH:
                    raise
                self.log.step(f"look at {node}", at, ok=False, detail=error.message, hint=error.hint)
                continue
            self.log.step(f"look at {node}", at, detail=f"{seen}, by two looks")
        if self.request.unfenced and plan.fence:
            self.log.notes.append(
                f"not fenced: whoever starts {', '.join(plan.fence)} again has two primaries"
            )
        return received

    def _survivors(self, plan: FailoverPlan) -> dict[str, PostgresConfig]:
        known = [
            each.node for each in plan.verdicts if each.state is not None and each.node not in plan.fence
        ]
        return {node: self.cluster.servers[node] for node in known}

    def _settle(self, plan: FailoverPlan, evidence: Evidence, received: Lsn) -> FailoverPlan:
        """Nobody feeds the standbys any more: what they hold now is what there is."""
        at = time.monotonic()
        self.job.report("waiting for the WAL that is on its way")
        servers = self._survivors(plan)
        states = wait_for_quiet(servers, received, self.seconds, self.job)
        if plan.kind is Kind.SWITCHOVER:
            ended = [each.state for each in plan.verdicts if each.node in plan.fence and each.state]
            old = max(ended, key=lambda each: each.timeline)
            proven = wait_for_everything(
                plan.node,
                servers[plan.node],
                max(old.held, *(each.held for each in states.values())),
                self.seconds,
                self.job,
                accept_loss=self.request.accept_loss,
            )
            self.log.step(
                "wait for all of its WAL",
                at,
                ok=True if proven else None,
                detail="it ends with the old primary's last checkpoint"
                if proven
                else "its end is not proven",
            )
            states = {**states, plan.node: look_at(plan.node, servers[plan.node])}
            plan = _now(plan, states)
            if plan.loss is not None and not proven:
                why = "the end of the old primary's WAL is not proven"
                plan = replace(plan, loss=replace(plan.loss, guaranteed=False, why=why))
            return plan
        again = replace(evidence, answers={**evidence.answers, **states})
        fresh = again.plan(self.cluster, replace(self.request, node=""), self.last)
        if fresh.node != plan.node and not self.request.accept_loss and not self._as_good(fresh, plan.node):
            raise ConflictError(
                f"{fresh.node} has received more than {plan.node} since the plan was made",
                hint="nothing was promoted, and the old primary is fenced: run this again, it chooses anew",
            )
        self.log.step("wait for the WAL on its way", at)
        settled = again.plan(self.cluster, replace(self.request, node=plan.node), self.last)
        # What refused before the fence was asked then.
        return replace(plan, verdicts=settled.verdicts, loss=settled.loss)

    def _as_good(self, fresh: FailoverPlan, node: str) -> bool:
        chosen = fresh.verdict(node)
        return chosen.eligible and bool(fresh.node) and chosen.held >= fresh.verdict(fresh.node).held

    def _keep_slots(self, plan: FailoverPlan, evidence: Evidence) -> None:
        """Before the promotion where it is still to come: so no WAL is recycled that somebody needs."""
        at = time.monotonic()
        wanted = [evidence.facts[node].slot for node in plan.follow if node in evidence.facts]
        names = tuple(dict.fromkeys(name for name in wanted if name))
        streamer = self.slot if self.cluster.repository is not None else ""
        slots = keep_slots(self.cluster.servers[plan.node], (*((streamer,) if streamer else ()), *names))
        if slots.kept or slots.missing:
            self._slot_step(at, slots, plan.node)

    def _slot_step(self, at: float, slots: Slots, node: str) -> None:
        missing = "; ".join(f"{name}: {why}" for name, why in slots.missing.items())
        self.log.step(
            f"slots on {node}",
            at,
            ok=None if missing else True,
            detail=", ".join(slots.kept) + (f" (missing: {missing})" if missing else ""),
            hint=_NO_SLOT if missing else "",
        )

    def _promote(self, plan: FailoverPlan) -> NodeState:
        at = time.monotonic()
        self.job.report(f"promoting {plan.node}")
        state = promote(plan.node, self.cluster.servers[plan.node], self.seconds, self.job)
        self.log.step(f"promote {plan.node}", at, detail=f"timeline {state.timeline}, it takes writes")
        promised = plan.loss.kept if plan.loss is not None and plan.kind is not Kind.FINISH else None
        if promised is not None and state.branched_at is not None:
            short = record_end(promised, state.segment_size) - record_end(
                state.branched_at, state.segment_size
            )
            replayed = plan.verdict(plan.node).state
            if short > 0:
                self.log.notes.append(
                    f"the last {short} bytes that {plan.node} had received are the beginning of a record that never came whole"
                )
            if replayed is not None and replayed.replayed and state.branched_at < replayed.replayed:
                self.log.step(
                    "the promise", at, ok=False, detail=f"less than the plan promised: {state.branched_at}"
                )
        if state.read_only:
            self.log.notes.append(
                f"default_transaction_read_only is on at {plan.node}: clients cannot write yet"
            )
        return self._with_branch(plan, state)

    def _with_branch(self, plan: FailoverPlan, state: NodeState) -> NodeState:
        """A server that was promoted earlier may have been restarted, and forgotten where its timeline begins, or have crashed,
        and name where that ended. Its history file knows."""
        just_now = plan.kind is not Kind.FINISH and state.branched_at is not None
        if just_now or state.timeline == 1:
            return state
        try:
            rows = ask(
                self.cluster.servers[plan.node],
                "SELECT pg_read_file('pg_wal/' || lpad(upper(to_hex(%s)), 8, '0') || '.history')",
                params=(state.timeline,),
                seconds=LOOK_SECONDS,
            )
        except EngineError:
            self.log.notes.append(
                "where the timeline begins is not known: a standby that has diverged is not recognised"
            )
            return state
        return replace(state, replayed=TimelineHistory.parse(state.timeline, rows[0][0].encode()).begin)


def _now(plan: FailoverPlan, states: dict[str, NodeState]) -> FailoverPlan:
    """The plan with what the nodes hold now."""
    verdicts = tuple(
        replace(each, state=states[each.node]) if each.node in states else each for each in plan.verdicts
    )
    held = next(each.held for each in verdicts if each.node == plan.node)
    loss = replace(plan.loss, kept=held, primary_bytes=0, other_bytes=0, other_node="") if plan.loss else None
    return replace(plan, verdicts=verdicts, loss=loss)
