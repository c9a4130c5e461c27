"""OpenArm's policy-server socket: a JSON line and an Arrow file in, one JSON line out.

The robot's side is a Dora dataflow, whose node `dora-openarm-local-policy-server` connects to a UNIX socket and
asks in lock-step.  It cannot be told of an error: an answer that it, or the executor behind it, does not expect
takes the dataflow down, and a number that is not finite reaches the motors.  So every request gets exactly one
line that both accept, with ``"positions": []`` for "nothing new" wherever there is no reason to send more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from chunkwise import plugins
from chunkwise.contract import PolicyOutputSpec, PolicySpec
from chunkwise.wires import ClientHalf, ServerHalf
from chunkwise.wires.openarm.arms import BOTH, robot_spec
from chunkwise.wires.openarm.observation import PHASE

__all__ = ["OpenArm"]

EXECUTOR_HZ: Final = 250.0
"""Rate at which the executor filters and commands; its filter is unstable from half of it on."""


class OpenArm:
    """The server that OpenArm's dataflow asks, and a client of such servers.

    Requests carry 16 positions [rad], right arm, right gripper, left arm, left gripper, or 8 of one arm; pictures
    by the observer's camera names; a prompt; and what a phase classifier says.

    Args:
        rows: rows in every answer (``T``), never another number: the executor is built on the first answer.
        control_hz: rate of the rows; None for the policy's.  A client refuses a server of another rate.
        cutoff_hz: of the executor's low-pass filter on what it commands; lower is smoother and later.  It is no
            number of steps, as the protocol's first description says.
        cameras: ``theirs:ours`` names, where they differ; a client sends those listed, or all where none is.
        phase: our name of the column `phase_classifier_result`, a state where it holds numbers.
        phase_shape: of that state; empty for the numbers as they come, in one row.
        arms: which arm the 8 positions of one are; empty to tell it from the wrist camera that is there (a
            client of both arms).
        limits: ``openarm`` keeps what is sent within OpenArm v2's joint limits, ``none`` is for other arms.
        max_rate: fastest change of a joint's target [rad/s].
        lead_ms: how much later than the answer the executor begins to play it: it looks every 100 ms.
        hold_after_reset_ms: after the answer to a reset, nothing is sent for so long; the executor would take it
            for the answer to the reset.
        patience_ms, reset_patience_ms: how long an answer may wait for a chunk of its own observation.
        stale_ms: an observation taken longer ago is not planned with.
        max_file_bytes: largest file that is opened.
        folder: where a client writes its files, in memory if there is such a place.

    Raises:
        ValueError: an option is out of range.
        MissingExtra: pyarrow is not installed.
    """

    transports: ClassVar[tuple[str, ...]] = ("unix",)

    def __init__(
        self,
        *,
        rows: int = 16,
        control_hz: float | None = None,
        cutoff_hz: float = 15.0,
        cameras: tuple[str, ...] = (),
        phase: str = PHASE,
        phase_shape: tuple[int, ...] = (),
        arms: Literal["right", "left", ""] = "",
        limits: Literal["openarm", "none"] = "openarm",
        max_rate: float = 6.0,
        lead_ms: float = 50.0,
        hold_after_reset_ms: float = 250.0,
        patience_ms: float = 25.0,
        reset_patience_ms: float = 2000.0,
        stale_ms: float = 500.0,
        max_file_bytes: int = 256 << 20,
        folder: str = "/dev/shm",
    ) -> None:
        _within("rows", rows, 2, 1024)
        _within("max_file_bytes", max_file_bytes, 1, 1 << 34)
        _above("max_rate", max_rate)
        if control_hz is not None:
            _above("control_hz", control_hz)
        if not 0 < cutoff_hz < EXECUTOR_HZ / 2:
            raise ValueError(f"cutoff_hz must be above 0 and below {EXECUTOR_HZ / 2:g} Hz, got {cutoff_hz}")
        if arms not in ("right", "left", "") or limits not in ("openarm", "none"):
            raise ValueError(f"arms are right, left or '', limits openarm or none; got {arms!r} and {limits!r}")
        waits = {"lead_ms": lead_ms, "hold_after_reset_ms": hold_after_reset_ms, "patience_ms": patience_ms}
        waits |= {"reset_patience_ms": reset_patience_ms, "stale_ms": stale_ms}
        for name, value in waits.items():
            _within(name, value, 0, 3_600_000)
        if phase_shape and min(phase_shape) < 1:
            raise ValueError(f"phase_shape must be sizes above zero, got {phase_shape}")
        if not folder.startswith("/"):
            raise ValueError(f"folder must be an absolute path, got {folder!r}")
        self.rows, self.control_hz, self.cutoff_hz, self.phase = rows, control_hz, cutoff_hz, phase
        self.arms, self.limits, self.max_rate = arms, limits, max_rate
        self.lead_s, self.hold_after_reset_s = 1e-3 * lead_ms, 1e-3 * hold_after_reset_ms
        self.patience_s, self.reset_patience_s = 1e-3 * patience_ms, 1e-3 * reset_patience_ms
        self.stale_s, self.max_file_bytes, self.folder = 1e-3 * stale_ms, max_file_bytes, folder.rstrip("/")
        self.cameras, self.phase_shape = _renamed(cameras), phase_shape
        self.pa = plugins.require("pyarrow", extra="openarm")

    def server(self) -> ServerHalf[bytes, bytes]:
        """The server's end of a new connection."""
        from chunkwise.wires.openarm.server import Server

        return Server(self)

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        from chunkwise.wires.openarm.client import Client

        return Client(self)

    def policy(self) -> PolicySpec:
        """What the server behind a client is known to be: it commands the arms, by their positions."""
        parts = robot_spec(self, (self.arms,) if self.arms else BOTH).components
        return PolicySpec(
            "openarm",
            list(self.cameras.values()),
            [part.name for part in parts],
            outputs=[
                PolicyOutputSpec(part.name, part.command[0], part.dof, names=part.joint_names, unit=part.unit)
                for part in parts
            ],
            state_names={part.name: list(part.joint_names) for part in parts},
            control_hz=self.control_hz,
        )


def _renamed(cameras: Sequence[str]) -> dict[str, str]:
    """``theirs:ours`` texts as a mapping; a name alone stands for both."""
    pairs = [text.partition(":") for text in cameras]
    names = {theirs.strip(): (ours if colon else theirs).strip() for theirs, colon, ours in pairs}
    if len(names) != len(pairs) or len(set(names.values())) != len(pairs) or not all(names.values()):
        raise ValueError(f"cameras must be theirs:ours, each once, got {', '.join(cameras)}")
    return names


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be {least:g} to {most:g}, got {value}")


def _above(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above zero, got {value}")
