"""Isaac-GR00T's policy server over ZeroMQ: each request one MessagePack map, each answer another.

A request is ``{"endpoint": "get_action", "data": ..., "api_token": ...}``.  How observations, arrays and answers
are written has changed twice; `chunkwise.wires.gr00t.dialects` has the three ways.  Every request is answered as
it was written, so that robots of all releases ask the same server.

The protocol says nothing of kinds, units, joint names or rates, and its requests have no number and no step.  The
connection is the session, and requests are answered in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final, Literal

from chunkwise import plugins
from chunkwise.contract import PolicyOutputSpec, nearest, validate_policy_output_spec
from chunkwise.wires import ClientHalf, ServerHalf, WireError

__all__ = ["Gr00t"]

MAX_MESSAGE_MB: Final = 1024
MAX_NAME: Final = 128
MAX_NAMES: Final = 256
LANGUAGE: Final = "annotation.human.task_description"
CAMERA_ALIASES: Final = (
    ("head", "ego_view", "cam_high", "top"),
    ("left_wrist", "cam_left_wrist", "wrist_left", "left_wrist_view"),
    ("right_wrist", "cam_right_wrist", "wrist_right", "right_wrist_view"),
    ("wrist", "wrist_view", "wrist_image"),
)
"""Names of one camera in releases and data sets; used where each side has just one of them."""
PART_ALIASES: Final = (("arm", "single_arm"),)


class Gr00t:
    """Isaac-GR00T robots of all releases, unchanged; and such servers as policies.

    Args:
        cameras: ``theirs:ours`` names of cameras.
        states: ``theirs:ours`` names of state parts, and of action parts that are not in `actions`.  For a client
            also ``theirs:dim`` or ``theirs:ours:dim``: a frame with another number of joints is not sent.
        actions: ``theirs:ours`` names of action parts.
        dialect: ``n1.7``, ``n1.6`` or ``n1.5``.  A client writes it; a server answers a question in it that looks
            alike in all three, asked before any that does not.
        outputs: of a client: ``component:kind:dim``, the columns of the policy behind the server, which does not
            say them.
        language: of a client: the key of the task where the server names none.
        task: of a client: what is sent for a frame that has no ``prompt``.
        control_hz: of a client: the rate of the rows.
        action_horizon: of a client: rows of a chunk, where the server does not say it.
        max_message_mb: longest message, MiB.

    Raises:
        ValueError: an option is out of range, or no such list.
        MissingExtra: msgpack is not installed.
    """

    transports: ClassVar[tuple[str, ...]] = ("zmq",)

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        states: tuple[str, ...] = (),
        actions: tuple[str, ...] = (),
        dialect: Literal["n1.7", "n1.6", "n1.5"] = "n1.7",
        outputs: tuple[str, ...] = (),
        language: str = LANGUAGE,
        task: str = "",
        control_hz: float | None = None,
        action_horizon: int | None = None,
        max_message_mb: int = 64,
    ) -> None:
        if dialect not in ("n1.7", "n1.6", "n1.5"):
            raise ValueError(f"dialect must be n1.7, n1.6 or n1.5, got {dialect!r}")
        if control_hz is not None and not (math.isfinite(control_hz) and control_hz > 0):
            raise ValueError(f"control_hz must be above zero, got {control_hz}")
        if action_horizon is not None and action_horizon < 1:
            raise ValueError(f"action_horizon must be 1 or more, got {action_horizon}")
        if not 1 <= max_message_mb <= MAX_MESSAGE_MB:
            raise ValueError(f"max_message_mb must be 1 to {MAX_MESSAGE_MB}, got {max_message_mb}")
        self.cameras, _ = _renamed("cameras", cameras)
        self.states, self.dims = _renamed("states", states, dims=True)
        own, _ = _renamed("actions", actions)
        self.actions = {theirs: ours for theirs, ours in self.states.items() if ours not in own.values()} | own
        self.dialect, self.language, self.task = dialect, language, task
        self.control_hz, self.action_horizon = control_hz, action_horizon
        self.max_bytes = max_message_mb << 20
        self.outputs = [_output(text) for text in outputs]
        plugins.require("msgpack", extra="gr00t")

    def server(self) -> ServerHalf[bytes, bytes]:
        """The server's end of a new connection."""
        from chunkwise.wires.gr00t.server import Gr00tServer

        return Gr00tServer(self)

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        from chunkwise.wires.gr00t.client import Gr00tClient

        return Gr00tClient(self)


def matched(
    what: str,
    wanted: Iterable[str],
    shown: Sequence[str],
    renamed: Mapping[str, str],
    aliases: Sequence[Sequence[str]] = (),
) -> dict[str, str]:
    """Our names with theirs: as the options say, else the same, else a well-known other name.

    Args:
        what: camera, state or action, for errors.
        wanted: our names.
        shown: theirs.
        renamed: theirs -> ours.
        aliases: groups of names of which each side has just one where they are the same thing.

    Raises:
        WireError: one of ours is not shown; it and the nearest that is are named.
    """
    back = {ours: theirs for theirs, ours in renamed.items()}
    ours = list(wanted)
    free = [name for name in shown if name not in renamed]
    taken = {}
    for name in ours:
        theirs: str | None = back.get(name, name)
        if name not in back and name not in free:
            theirs = _alias(name, ours, [each for each in free if each not in ours], aliases)
        if theirs is None or theirs not in shown:
            raise WireError(_missing(what, back.get(name, name), shown))
        taken[name] = theirs
    return taken


def _alias(name: str, ours: list[str], free: list[str], aliases: Sequence[Sequence[str]]) -> str | None:
    for group in aliases:
        if name in group and sum(each in group for each in ours) == 1:
            found = [each for each in free if each in group]
            if len(found) == 1:
                return found[0]
    return None


def _missing(what: str, name: str, shown: Sequence[str]) -> str:
    there = ", ".join(map(str, shown))[:400] or "none"
    return f"{what} {name!r} is missing{nearest(name, shown)}; there are: {there}"


def _renamed(option: str, texts: Sequence[str], *, dims: bool = False) -> tuple[dict[str, str], dict[str, int]]:
    """Theirs -> ours, and ours -> how many numbers."""
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for text in texts:
        theirs, *rest = (piece.strip() for piece in text.split(":"))
        size = int(rest.pop()) if dims and rest and rest[-1].isdecimal() else 0
        ours = rest.pop() if rest else theirs
        if rest or not theirs or not ours or theirs in names or ours in names.values():
            raise ValueError(f"{option}: write theirs:ours, each name once; got {text!r}")
        names[theirs] = ours
        if size:
            sizes[ours] = size
    return names, sizes


def _output(text: str) -> PolicyOutputSpec:
    target, _, rest = text.partition(":")
    kind, _, dim = rest.rpartition(":")
    if not dim.isdecimal():
        raise ValueError(f"outputs: write component:kind:dim, as in arm:joint_position:7; got {text!r}")
    made = PolicyOutputSpec(target, kind, int(dim))
    validate_policy_output_spec(made)
    return made
