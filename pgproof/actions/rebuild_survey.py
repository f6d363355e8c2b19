"""Everything that a rebuild has to know and can refuse, before it changes anything."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

from pgproof.actions.rebuild_identity import own_files, owner_of, slot_name
from pgproof.actions.rebuild_repository import is_configured, what_is_stored
from pgproof.actions.wal_serving import interpreter_for
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job
from pgproof.model.node import NodeState
from pgproof.model.rebuild_choice import plan_rebuild
from pgproof.model.rebuild_evidence import Directory, Primary, Source, Stored
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_refusals import primary_among
from pgproof.model.rebuild_report import RebuildRequest
from pgproof.model.recovery_request import Standby
from pgproof.model.replica_conf import setting
from pgproof.model.replication_config import ReplicationConfig
from pgproof.postgres.connection import connect
from pgproof.postgres.node_query import measure_nodes
from pgproof.postgres.osuser import OsUser, service_user
from pgproof.postgres.programs import Programs, find_programs
from pgproof.postgres.rebuild_place import RebuildPlace
from pgproof.postgres.rebuild_primary import (
    ask_primary,
    refuse_used_slot,
    who_streams,
)
from pgproof.postgres.rebuild_witness import refuse_directory_of_another, refuse_directory_of_primary
from pgproof.postgres.replica_directory import look_at_directory
from pgproof.postgres.replica_server import ReplicaServer, reaches_primary
from pgproof.postgres.standby import replica_conninfo


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found. `repository` is None if none is configured or it cannot be opened. `fetches` says that the replica can
    fetch WAL from it, `pinned` to which timeline it has to keep, `delayed` that it stays behind on purpose."""

    request: RebuildRequest
    plan: RebuildPlan
    place: RebuildPlace
    directory: Directory
    primary: Primary
    primary_config: PostgresConfig
    history: bytes
    programs: Programs
    standby: Standby
    repository: BackupConfig | None
    stored: Stored | None
    fetches: bool
    pinned: int | None
    delayed: bool

    @property
    def user(self) -> OsUser | None:
        return self.place.user

    @property
    def server(self) -> ReplicaServer:
        return ReplicaServer(
            self.place.data_dir,
            self.programs,
            self.user,
            self.request.start_command,
            self.request.stop_command,
        )


def survey_rebuild(
    postgres: PostgresConfig,
    replication: ReplicationConfig,
    config: BackupConfig | None,
    request: RebuildRequest,
    job: Job,
    *,
    stopped: bool = False,
) -> Survey:
    """Look at the directory, all nodes and the repository, and plan. Changes nothing but a slot of the primary that lasts for
    a moment. `stopped` says that the replica's server was ended just now, so that its slot may still seem used.

    Raises PreconditionError for whatever stands in the way, before anything is touched.
    """
    servers = replication.servers(postgres)
    # Through a link nothing could be moved aside.
    request = replace(request, data_dir=request.data_dir.resolve())
    if request.node not in servers:
        replication.replica(request.node)
    place = RebuildPlace(request.data_dir, service_user(request.owner or owner_of(request.data_dir)))
    place.require_room()
    job.report("looking at the directory and the nodes")
    directory = look_at_directory(place)
    found = measure_nodes(servers)
    states = [each for each in found.values() if isinstance(each, NodeState)]
    state = primary_among(states, directory.system_identifier)
    primary_config = servers[state.node]
    _refuse_primary(request, state, found, primary_config)
    primary, history = ask_primary(primary_config, state)
    files = own_files(place)
    slot = slot_name(request, files)
    node = found[request.node]
    _refuse_mistaken_directory(request, directory, node)
    unproven = ""
    if directory.running:
        others = {each.node: servers[each.node] for each in states if each is not state}
        unproven = refuse_directory_of_another(request.node, others, request.data_dir)
    streams = (
        isinstance(node, NodeState)
        and node.in_recovery
        and directory.running
        and node.receiver == "streaming"
    )
    if streams:
        with closing(connect(primary_config)) as connection:
            streams = who_streams(connection, slot).streams
    stored, why_not, notes = None, "", [unproven] if unproven else []
    repository = config if config is not None and is_configured(config) else None
    if repository is not None:
        try:
            stored = what_is_stored(repository, state)
        except EngineError as error:
            repository, why_not = None, f"the repository cannot be used: {error.message}"
            if request.source is Source.REPOSITORY:
                raise
            notes.append(why_not)
    plan = plan_rebuild(
        request.node,
        directory,
        primary,
        stored,
        slot=slot,
        states=states,
        streams=streams,
        source=request.source,
        can_stop=request.stop_command is not None,
        why_not_stored=why_not,
    )
    pinned = None
    if stored is not None and max(stored.timelines, default=0) > state.timeline:
        pinned = state.timeline
        notes.append(
            f"the repository holds a newer timeline than the primary's, of a cluster that was restored: the replica is kept to "
            f"timeline {pinned}; set recovery_target_timeline to latest before the next failover"
        )
    programs = find_programs(state.version // 10000, config.bin_dir if config else None)
    conninfo = replica_conninfo(
        request.primary_conninfo, setting(files, "primary_conninfo"), primary_config, request.node
    )
    standby = Standby(conninfo, slot)
    fetches = repository is not None
    if plan.way is not Way.NOTHING:
        if request.primary_conninfo is not None or not directory.running or not streams:
            reaches_primary(conninfo, primary, programs, place.user, job)
        # What its own server uses is free again when that was stopped.
        another = request.slot is not None and request.slot != setting(files, "primary_slot_name")
        if (another or not directory.running) and not stopped:
            refuse_used_slot(primary_config, slot)
        if repository is not None:
            try:
                interpreter_for(place.user)
            except PreconditionError as error:
                if plan.way is Way.RESTORE:
                    raise
                fetches = False
                notes.append(f"the replica will get its WAL from the primary alone: {error.message}")
        programs.path("pg_ctl")
        if plan.way is Way.REWIND:
            programs.path("pg_rewind")
    return Survey(
        request,
        replace(plan, notes=(*plan.notes, *notes)),
        place,
        directory,
        primary,
        primary_config,
        history,
        programs,
        standby,
        repository,
        stored,
        fetches,
        pinned,
        setting(files, "recovery_min_apply_delay") not in ("", "0"),
    )


def _refuse_primary(
    request: RebuildRequest,
    state: NodeState,
    found: dict[str, NodeState | EngineError],
    primary_config: PostgresConfig,
) -> None:
    """Raises PreconditionError if what is to be overwritten is the one server to follow."""
    if state.node == request.node:
        others = [
            str(each)
            for name, each in found.items()
            if name != request.node and isinstance(each, EngineError)
        ]
        raise PreconditionError(
            "this node is the primary itself; nothing was changed",
            hint="name a replica. To make an old primary a replica, promote another one first: `pgproof replicas promote`",
            node=request.node,
            unreachable=len(others),
        )
    refuse_directory_of_primary(primary_config, request.data_dir)


def _refuse_mistaken_directory(
    request: RebuildRequest, directory: Directory, node: NodeState | EngineError
) -> None:
    """A node that answers while nobody works in the directory has its files elsewhere."""
    if isinstance(node, NodeState) and not directory.running:
        raise PreconditionError(
            "this node answers, but no server runs in the directory: it has its files elsewhere",
            hint="look at the node's name and --data-dir again",
            node=request.node,
            path=request.data_dir,
        )
