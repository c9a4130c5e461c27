"""openpi's policy server over websockets, and the servers and clients that speak nearly the same.

The server speaks first: a map of what it has.  Then each binary frame is an observation, msgpack with marked
arrays, and is answered with one frame: the chunk.  Nothing in the protocol says what a number is, what the columns
are called or when an episode ends, so names are what binds a client to the policy: its own, those of the options,
and those that everybody in this family uses.

Where the path is vLLM-omni's or SGLang's, answers and errors are what their clients read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple

from chunkwise import plugins
from chunkwise.contract import PolicyOutputSpec, validate_policy_output_spec
from chunkwise.wires import ClientHalf, ServerHalf

__all__ = ["OpenPi"]

VLLM_PATH: Final = "/v1/realtime/robot/openpi"
SGLANG_PATH: Final = "/openpi/policy"
MAX_MESSAGE_MB: Final = 1024


class Pair(NamedTuple):
    """A name of theirs and what it is here.

    Attributes:
        theirs: the key, with slashes where maps lie in one another.
        ours: names here; several where one vector is their states one after the other.
        dim: how many numbers; 0 for any.
    """

    theirs: str
    ours: tuple[str, ...]
    dim: int = 0


class OpenPi:
    """The openpi client and its relatives, unchanged; and such servers as policies.

    Args:
        cameras: ``theirs:ours`` names of cameras, as in ``observation/wrist_image_left:wrist``.
        states: ``theirs:ours`` names of states; ``state:left_arm+left_gripper`` for a vector that is several
            states one after the other.  For a client also ``name:dim`` or ``theirs:ours:dim``: a frame with
            another number of joints is not sent.
        actions: the policy's outputs in the order in which a server sends their columns; its own order if none.
        task: the prompt where an observation, or a frame, has none.
        bare: answer the rows without a map around them; None for where the path is vLLM-omni's.
        outputs: of a client: ``component:kind:dim``, the columns of the policy behind a server that does not say
            them.
        control_hz: of a client: the rate of the rows, where the server does not say it.
        action_horizon: of a client: rows of a chunk, where the server does not say it.
        dialect: of a client: ``flat`` sends each thing under its key, ``aloha`` puts cameras into ``images`` with
            their channels first, ``auto`` is flat for all servers but this one.
        session: of a client: sent as ``session_id``, to servers that know episodes by it; empty for none.
        send_reset: of a client: say when an episode ends; None for where the server knows that.
        max_message_mb: longest message, MiB.

    Raises:
        ValueError: an option is out of range, or no such list.
        MissingExtra: msgpack is not installed.
    """

    transports: ClassVar[tuple[str, ...]] = ("websocket",)

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        states: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        task: str = "",
        bare: bool | None = None,
        outputs: tuple[str, ...] = (),
        control_hz: float | None = None,
        action_horizon: int | None = None,
        dialect: Literal["auto", "flat", "aloha"] = "auto",
        session: str = "",
        send_reset: bool | None = None,
        max_message_mb: int = 64,
    ) -> None:
        if dialect not in ("auto", "flat", "aloha"):
            raise ValueError(f"dialect must be auto, flat or aloha, got {dialect!r}")
        if control_hz is not None and not (math.isfinite(control_hz) and control_hz > 0):
            raise ValueError(f"control_hz must be above zero, got {control_hz}")
        if action_horizon is not None and action_horizon < 1:
            raise ValueError(f"action_horizon must be 1 or more, got {action_horizon}")
        if not 1 <= max_message_mb <= MAX_MESSAGE_MB:
            raise ValueError(f"max_message_mb must be 1 to {MAX_MESSAGE_MB}, got {max_message_mb}")
        self.cameras, self.states = _pairs("cameras", cameras), _pairs("states", states)
        if any(len(pair.ours) > 1 or pair.dim for pair in self.cameras):
            raise ValueError("cameras: write theirs:ours, one of ours for each of theirs")
        if len(set(actions)) != len(actions):
            raise ValueError(f"actions: a name stands twice in {', '.join(actions)}")
        self.actions, self.task, self.bare = actions, task, bare
        self.outputs = [_output(text) for text in outputs]
        self.control_hz, self.action_horizon = control_hz, action_horizon
        self.dialect, self.session, self.send_reset = dialect, session, send_reset
        self.max_bytes = max_message_mb << 20
        plugins.require("msgpack", extra="openpi")

    def server(self) -> ServerHalf[Any, Any]:
        """The server's end of a new connection."""
        from chunkwise.wires.openpi.server import OpenPiServer

        return OpenPiServer(self)

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        from chunkwise.wires.openpi.client import OpenPiClient

        return OpenPiClient(self)


def _pairs(option: str, texts: Sequence[str]) -> list[Pair]:
    pairs: list[Pair] = []
    for text in texts:
        theirs, *rest = (piece.strip() for piece in text.split(":"))
        dim = int(rest.pop()) if rest and rest[-1].isdecimal() else 0
        ours = tuple((rest.pop() if rest else theirs).replace("+", " ").split())  # a URL's plus is a blank
        if rest or not theirs or not ours:
            raise ValueError(f"{option}: write theirs:ours, got {text!r}")
        pairs.append(Pair(theirs, ours, dim))
    for names in ([pair.theirs for pair in pairs], [name for pair in pairs for name in pair.ours]):
        if len(set(names)) != len(names):
            raise ValueError(f"{option}: a name stands twice in {', '.join(names)}")
    return pairs


def _output(text: str) -> PolicyOutputSpec:
    target, _, rest = text.partition(":")
    kind, _, dim = rest.rpartition(":")  # a kind may be custom:something
    if not dim.isdecimal():
        raise ValueError(f"outputs: write component:kind:dim, as in arm:joint_position:7; got {text!r}")
    made = PolicyOutputSpec(target, kind, int(dim))
    validate_policy_output_spec(made)
    return made
