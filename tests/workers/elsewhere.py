"""Policies that the tests have made in another process; found by this file's name."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    Command,
    Frame,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)

JOINTS = ["shoulder", "elbow"]


def spec(name: str, images: tuple[str, ...] = ()) -> PolicySpec:
    """An arm of two joints, the elbow first."""
    return PolicySpec(
        name,
        list(images),
        ["arm"],
        outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=JOINTS[::-1])],
        state_names={"arm": JOINTS[::-1]},
        action_horizon=1,
    )


class Mirror:
    """Answers the state it sees, in its own joint order.

    Args:
        offset: added to it.
        rate: that it was told to run at.
    """

    def __init__(self, *, offset: float = 0.0, control_hz: float = 0.0) -> None:
        self._offset, self.rate = offset, control_hz
        self.spec = spec("mirror")
        self.calls: list[str] = []

    def meet(self, robot: RobotSpec) -> None:
        self.calls.append(f"meet {robot.name}")

    def warmup(self) -> None:
        self.calls.append("warmup")

    def reset(self) -> None:
        self.calls.append("reset")

    def session(self) -> Mirror:
        other = Mirror(offset=self._offset)
        other.calls = ["session"]
        return other

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        meta = {"calls": list(self.calls), "pid": os.getpid(), "rate": self.rate}
        return ActionChunk(frame.state["arm"][None] + self._offset, None, meta)


class WithoutSpec:
    """Answers Actions."""

    def infer(self, frame: Frame, request: ChunkRequest) -> list[Action]:
        command = Command("joint_position", np.array(frame.state["arm"]) + request.request_step)
        return [Action({"arm": command}), Action({"arm": command})]


class Raises:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("the weights are for another robot")


class Leaves:
    """Ends the program in its constructor."""

    def __init__(self) -> None:
        sys.exit("I am leaving")


class Dies:
    """Is killed in its constructor, after a word."""

    def __init__(self) -> None:
        os.write(2, b"allocating 80 GiB\n")
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs:
    """Is never made."""

    def __init__(self) -> None:
        threading.Event().wait()


class Stops:
    """Stops itself with SIGSTOP when it is asked for the step 1."""

    def __init__(self) -> None:
        self.spec = spec("stops")

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        if request.request_step == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return ActionChunk(np.zeros((1, 2)))


class NeedsWhatIsNotThere:
    """Imports a module that nobody has."""

    def __init__(self) -> None:
        import no_such_module_anywhere  # noqa: F401


def write_to_picture(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Raises, as pictures cannot be written to."""
    frame.images["eye"][0, 0] = 1
    return ActionChunk(np.zeros((1, 1)))


def look(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """The sum of the picture's numbers, its size, and whether it is a view of other memory."""
    image = frame.images["eye"]
    return ActionChunk(np.array([[float(image.sum()), image.size, image.base is not None]]))


_kept: list[Any] = []


def keep(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Keeps every picture, and answers the first number of each of those it has."""
    _kept.append(frame.images["eye"])
    return ActionChunk(np.array([[float(image.reshape(-1)[0]) for image in _kept]]))


def fraction(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Everything that came, as text."""
    about = {"task": frame.task, "meta": frame.meta, "sequence": frame.sequence_id, "stamp": frame.timestamp_ns}
    return ActionChunk(np.zeros((1, 1)), 3, about)


def echo(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """What the request carries."""
    plan = request.prev_action_chunk
    meta = {
        "delay": request.inference_delay,
        "horizon": request.execute_horizon,
        "plan": None if plan is None else [item.commands["arm"].value.tolist() for item in plan],
        "prefix": None if request.prefix is None else request.prefix.tolist(),
        "weights": None if request.prefix_weights is None else request.prefix_weights.tolist(),
    }
    return ActionChunk(np.zeros((1, 1)), None, meta)


def exit_now(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Ends its process in step 1, without a word."""
    if request.request_step == 1:
        os._exit(7)
    return ActionChunk(np.zeros((1, 1)))


def sys_exit(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """As `sys.exit` in a policy."""
    sys.exit(3)


def where(frame: Frame, request: ChunkRequest) -> ActionChunk:
    """Cores, niceness, pool sizes and the process that this runs in."""
    pools = int(os.environ["OMP_NUM_THREADS"])
    cpus = sorted(os.sched_getaffinity(0))
    mine = [sorted(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()]
    meta = {"cpus": cpus, "all": mine, "nice": os.nice(0), "threads": pools}
    return ActionChunk(np.zeros((1, 1)), None, meta)


def act(frame: Frame, request: ChunkRequest) -> list[Action]:
    """Twelve Actions: the number of the step, and this process."""
    steps = range(request.request_step, request.request_step + 12)
    return [Action({"arm": Command("joint_position", np.array([float(step), os.getpid()]))}) for step in steps]


def refuse(frame: Frame, request: ChunkRequest) -> list[Action]:
    """Raises."""
    raise RuntimeError("no")
