"""What ROS 2 tells others about its nodes: DDS knows participants and endpoints, and nothing of nodes.

Every participant publishes, at one topic for all, which nodes it has and which endpoints are each node's.
Source: rmw_dds_common of ROS 2; the identifier of an endpoint has 24 bytes up to Humble, and 16 since Iron.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from chunkwise.transports._ros2 import Qos
from chunkwise.transports._ros2.types import Types

TYPE: Final = "rmw_dds_common/msg/ParticipantEntitiesInfo"
QOS: Final = Qos("reliable", "transient_local", depth=1)
ENCLAVE: Final = b"enclave=/;"
"""User data of a participant; those that have none are no ROS to others."""


def endpoint_data(types: Types, name: str) -> bytes:
    """User data of an endpoint: which version of its type it has."""
    return f"typehash={types.hash(name)};".encode("ascii")


def entities(
    types: Types, participant: UUID, name: str, readers: Iterable[UUID], writers: Iterable[UUID]
) -> dict[str, Any]:
    """The fields of the message that a participant with one node publishes.

    Args:
        types: of the distribution.
        participant: its GUID.
        name: of the node, without a namespace.
        readers, writers: GUIDs of the node's endpoints.
    """
    size = types.fields("rmw_dds_common/msg/Gid")["data"][1][1]

    def gid(guid: UUID) -> dict[str, bytes]:
        return {"data": guid.bytes.ljust(size, b"\0")}

    node = {
        "node_namespace": "/",
        "node_name": name,
        "reader_gid_seq": [gid(guid) for guid in readers],
        "writer_gid_seq": [gid(guid) for guid in writers],
    }
    return {"gid": gid(participant), "node_entities_info_seq": [node]}
