"""The front door to replicas: reads and writes through a router, and what an operator does with them."""

from __future__ import annotations

from pgproof.model.config import PostgresConfig as PostgresConfig
from pgproof.model.replication_config import ReplicaInfo as ReplicaInfo
from pgproof.model.replication_config import ReplicationConfig as ReplicationConfig
from pgproof.model.replication_config import ReplicaType as ReplicaType
from pgproof.model.routing import ReadPolicy as ReadPolicy
from pgproof.model.token import Token as Token
from pgproof.replica_manager import ReplicaManager as ReplicaManager
from pgproof.routing.metrics import RouterCollector as RouterCollector
from pgproof.routing.options import RouterOptions as RouterOptions
from pgproof.routing.router import ReadReplicaRouter as ReadReplicaRouter
from pgproof.routing.session import Session as Session
from pgproof.routing.status import RouterStatus as RouterStatus
from pgproof.routing.writing import WriteResult as WriteResult
