"""Record an episode: what the robot saw, what it was told, and what it did.

    python examples/03_data_collection.py [FILE]

The source of the commands is a script here; a teleoperator's `read_command(frame, request)` goes in its place.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import chunkwise as infra
from chunkwise.recording import EpisodeReader, EpisodeWriter

CONTROL_HZ = 50.0
STEPS = 100
EPISODE = Path(tempfile.gettempdir()) / "chunkwise_episode.mcap"


def make_script() -> Callable[[infra.Frame, infra.ChunkRequest], infra.Action]:
    """A teleoperator that draws circles: right joint 1 follows the sine, right joint 2 the cosine."""
    step = 0

    def read_command(frame: infra.Frame, request: infra.ChunkRequest) -> infra.Action:
        nonlocal step
        angle = 2 * math.pi * step / STEPS
        step += 1
        arm = [0.3 * math.sin(angle), 0.3 * math.cos(angle) - 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]
        return infra.Action.from_commands(
            {
                "right_arm": {"command": "joint_position", "value": arm},
                "right_gripper": {"command": "gripper_position", "value": [0.05 + 0.05 * math.sin(angle)]},
            }
        )

    return read_command


def collect(path: Path) -> None:
    """Two seconds of the mock robot into a file."""
    robot = infra.load("robots", "mock")(cameras=("head",), control_hz=CONTROL_HZ)
    controller = infra.RealtimeController(hz=CONTROL_HZ)
    read_command = make_script()
    robot.connect()
    with EpisodeWriter(path, robot=robot.spec, meta={"operator": "script", "task": "circle"}) as writer:
        for step in range(STEPS):
            result = infra.run_step(observe_fn=robot.observe, act_src_fn=read_command, act_fn=robot.act)
            writer.frame(result.frame, step=step)
            writer.action(result.raw_action, result.action, step=step)
            controller.wait()
    robot.close()


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else EPISODE
    path.unlink(missing_ok=True)  # a recorder does not write over a recording
    collect(path)
    reader = EpisodeReader(path)
    frames = list(reader.frames())
    seconds = (frames[-1].frame.timestamp_ns - frames[0].frame.timestamp_ns) / 1e9
    print(f"{path}: {len(frames)} frames and {len(list(reader.actions()))} actions in {seconds:.2f} s")
    print(f"{path.stat().st_size} bytes, cut off: {reader.truncated}")


if __name__ == "__main__":
    main()
