"""The promised import names for read replicas."""

from pgproof.replication import PostgresConfig as PostgresConfig
from pgproof.replication import ReadPolicy as ReadPolicy
from pgproof.replication import ReadReplicaRouter as ReadReplicaRouter
from pgproof.replication import ReplicaInfo as ReplicaInfo
from pgproof.replication import ReplicaManager as ReplicaManager
from pgproof.replication import ReplicationConfig as ReplicationConfig
from pgproof.replication import ReplicaType as ReplicaType
from pgproof.replication import RouterCollector as RouterCollector
from pgproof.replication import RouterOptions as RouterOptions
from pgproof.replication import RouterStatus as RouterStatus
from pgproof.replication import Session as Session
from pgproof.replication import Token as Token
from pgproof.replication import WriteResult as WriteResult
