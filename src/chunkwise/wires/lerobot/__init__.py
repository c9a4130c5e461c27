"""LeRobot's asynchronous inference over gRPC: stock robot clients, and stock policy servers as policies.

The protocol is the service ``transport.AsyncInference``: ``Ready``, ``SendPolicyInstructions``, then
``SendObservations`` and ``GetActions`` from two threads for ever.  Its payloads are pickles.  They are read by a
machine that knows a handful of names and calls none of them (`chunkwise.processing.pickled`), and written by
hand, so that a robot gets tensors of torch from a server that has neither torch nor LeRobot.

The robot schedules: it asks where its queue runs low, stamps its observations with the number of the action that
it did last, and merges what comes back by those numbers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar, Final

from chunkwise.contract import PolicyOutputSpec, PolicySpec, validate_policy_output_spec
from chunkwise.wires import ClientHalf, HttpRequest, HttpResponse, ServerHalf
from chunkwise.wires.lerobot.robots import Robot

__all__ = ["LeRobot"]

SERVICE: Final = "/transport.AsyncInference/"
MAX_ROBOTS: Final = 256
MAX_KEPT_BYTES: Final = 256 << 20
"""Of observations that nobody has asked actions for yet, of all robots together."""


class LeRobot:
    """LeRobot's asynchronous inference: stock robot clients, and stock policy servers as policies.

    Args:
        cameras: ``theirs:ours`` names of cameras; of a client, all that are sent.
        joints: ``theirs:ours`` names of joints, ours as ``joint`` or ``component.joint``; of a client, the names
            that are sent, in the order of its states.
        actions: names of a robot's joints in the order of its actions, where that is not the order of its state.
        degrees: the robot's joints are in degrees; those of the policy that are in rad are converted.
        fps: actions per second, for their time stamps; None for the policy's, or 30.
        park_s: how long ``GetActions`` waits for an observation before it is answered with nothing.
        max_observation_mb: longest observation, MiB.
        states: of a client: ``name:dim`` of the states that are sent, where no outputs say it.
        outputs: of a client: ``component:kind:dim``, the columns of the policy behind the server, which does not
            say them; without, the policy commands all of the robot.
        policy_type, pretrained, device: of a client: the policy that a stock server is told to load, and where.
        actions_per_chunk: of a client: rows that are wanted of a chunk.
        task: of a client: what is sent for a frame that has no ``prompt``.

    Raises:
        ValueError: an option is out of range, or no such list.
    """

    transports: ClassVar[tuple[str, ...]] = ("grpc",)

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        joints: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        degrees: bool = False,
        fps: float | None = None,
        park_s: float = 2.0,
        max_observation_mb: int = 64,
        states: tuple[str, ...] = (),
        outputs: tuple[str, ...] = (),
        policy_type: str = "act",
        pretrained: str = "",
        device: str = "cpu",
        actions_per_chunk: int = 50,
        task: str = "",
    ) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be above zero, got {fps}")
        if not 0 <= park_s <= 60:
            raise ValueError(f"park_s must be 0 to 60, got {park_s}")
        if not 1 <= max_observation_mb <= 1024:
            raise ValueError(f"max_observation_mb must be 1 to 1024, got {max_observation_mb}")
        if not 1 <= actions_per_chunk <= 4096:
            raise ValueError(f"actions_per_chunk must be 1 to 4096, got {actions_per_chunk}")
        self.cameras, self.joints = _renamed("cameras", cameras), _renamed("joints", joints)
        self.actions, self.degrees, self.fps, self.park_s = actions, degrees, fps, park_s
        self.max_bytes = max_observation_mb << 20
        self.outputs = [_output(text) for text in outputs]
        self.states = dict(_sized(text) for text in states) or {part.target: part.dim for part in self.outputs}
        if self.states and self.joints and len(self.joints) != sum(self.states.values()):
            raise ValueError(
                f"joints has {len(self.joints)} names, the states have {sum(self.states.values())} numbers"
            )
        self.behind = policy_type, pretrained, device
        self.actions_per_chunk, self.task = actions_per_chunk, task
        self.policy: PolicySpec | None = None
        self.robots: OrderedDict[str, Robot] = OrderedDict()

    def server(self) -> ServerHalf[HttpRequest, HttpResponse]:
        """The server's end of a new call."""
        from chunkwise.wires.lerobot.server import LeRobotServer

        return LeRobotServer(self)

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        from chunkwise.wires.lerobot.client import LeRobotClient

        return LeRobotClient(self)

    def known(self, peer: str) -> Robot:
        """What is remembered of a robot, which is told by its connection; nothing of one that is new."""
        return self.robots.get(peer) or Robot()

    def robot(self, peer: str) -> Robot:
        """The same, remembered from now on; the robot that was heard of longest ago gives way."""
        found = self.robots.setdefault(peer, Robot())
        self.robots.move_to_end(peer)
        if len(self.robots) > MAX_ROBOTS:
            self.robots.popitem(last=False)
        return found

    def keep(self, robot: Robot) -> None:
        """Make room for what a robot has just shown: the oldest that nobody asked for gives way."""
        kept = sum(other.kept_bytes for other in self.robots.values())
        for other in self.robots.values():
            if kept <= MAX_KEPT_BYTES or other is robot:
                return
            kept -= other.kept_bytes
            other.forget()


def _renamed(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """Theirs -> ours."""
    names: dict[str, str] = {}
    for text in texts:
        theirs, colon, ours = (piece.strip() for piece in text.partition(":"))
        ours = ours if colon else theirs
        if not theirs or not ours or theirs in names or ours in names.values():
            raise ValueError(f"{option}: write theirs:ours, each name once; got {text!r}")
        names[theirs] = ours
    return names


def _sized(text: str) -> tuple[str, int]:
    name, _, dim = text.rpartition(":")
    if not name or not dim.isdecimal() or not 0 < int(dim) <= 1024:
        raise ValueError(f"states: write name:dim, as in arm:6; got {text!r}")
    return name, int(dim)


def _output(text: str) -> PolicyOutputSpec:
    target, _, rest = text.partition(":")
    kind, _, dim = rest.rpartition(":")
    if not dim.isdecimal():
        raise ValueError(f"outputs: write component:kind:dim, as in arm:joint_position:6; got {text!r}")
    made = PolicyOutputSpec(target, kind, int(dim))
    validate_policy_output_spec(made)
    return made
