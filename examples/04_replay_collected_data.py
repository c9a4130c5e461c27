"""Replay an episode: the same observations, the same commands, each at its own step.

    python examples/04_replay_collected_data.py [FILE]

Without a file it replays the one that 03_data_collection.py makes, and has it made where it is missing.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import chunkwise as infra
from chunkwise.recording import EpisodeReader

COLLECTION = Path(__file__).with_name("03_data_collection.py")


def replay(path: Path) -> list[infra.Action]:
    """Every command of the recording once more; what was sent."""
    robot = infra.load("robots", "replay")(path=str(path), pace="fast")
    policy = infra.load("policies", "replay")(path=str(path), rows=10)
    robot.connect()
    with infra.InferenceRuntime(mode=infra.InferenceMode.SYNC) as runtime:
        while not robot.finished:
            infra.run_step(observe_fn=robot.observe, act_src_fn=policy.actions, act_fn=robot.act, runtime=runtime)
    print(f"{len(robot.sent)} commands sent, {len(robot.differences())} not those that were recorded")
    robot.close()
    sent: list[infra.Action] = robot.sent
    return sent


def main() -> None:
    made = runpy.run_path(str(COLLECTION))
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else made["EPISODE"]
    if not path.exists():
        made["collect"](path)
    sent = replay(path)
    recorded = [record.commanded for record in EpisodeReader(path).actions()]
    same = len(sent) == len(recorded) and all(
        now.commands[name].value.tobytes() == command.value.tobytes()
        for now, then in zip(sent, recorded, strict=True)
        for name, command in then.commands.items()
    )
    print(f"equal to the last bit: {same}")


if __name__ == "__main__":
    main()
