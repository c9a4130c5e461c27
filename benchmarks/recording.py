"""What recording costs the control loop and the disk, and what a kill -9 costs a recording.

    python benchmarks/recording.py            # prints, and writes docs/benchmarks/recording.md
    python benchmarks/recording.py --seconds 8 --no-page

The kill test records the simulated OpenArm with three cameras at 30 Hz in a process of its own, which also logs a
digest of everything that it hands to the recorder, and kills that process with SIGKILL in the middle.  What reads
back is compared with the log, and then replayed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chunkwise import plugins
from chunkwise.contract import Action, Frame, robot_layout
from chunkwise.recording import (
    ActionRecord,
    EpisodeReader,
    EpisodeWriter,
    FrameRecord,
    RecordedRobot,
    recorded,
)
from chunkwise.runtime.session import Session
from chunkwise.workers import Worker

HZ = 30.0
CAMERAS = ("head", "wrist_right", "wrist_left")
CAMERA_SIZE = (120, 160)
VGA = (480, 640, 3)
LOST_S = 1.0
"""What a crash may cost."""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "recording.md"


def digest(value: Frame | Action) -> str:
    """Everything in it that must come back to the last bit."""
    made = hashlib.blake2b(digest_size=16)
    if isinstance(value, Frame):
        made.update(f"{value.timestamp_ns} {value.sequence_id}".encode())
        for arrays in (value.images, value.state):
            for name, array in arrays.items():
                made.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    else:
        for name, command in value.commands.items():
            made.update(f"{name} {command.command} {command.ref_frame}".encode() + command.value.tobytes())
    return made.hexdigest()


class Witness(RecordedRobot):
    """Logs a digest of what is recorded, at once."""

    def __init__(self, log: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._log = log

    def observe(self) -> Frame:
        frame = super().observe()
        self._say("frame", digest(frame))
        return frame

    def act(self, action: Action) -> Action:
        applied = super().act(action)
        self._say("action", digest(action), digest(applied))
        return applied

    def _say(self, *what: str) -> None:
        os.write(self._log, (json.dumps([time.time(), *what]) + "\n").encode())


def record(path: Path, log: Path) -> None:
    """Drive the simulated OpenArm and record it, until somebody puts an end to it."""
    arm = plugins.load("robots", "openarm_sim")(
        control_hz=HZ, cameras=CAMERAS, camera_hz=2 * HZ, camera_size=CAMERA_SIZE
    )
    policy = plugins.load("policies", "wave")(control_hz=HZ, amplitude=0.2)
    made: list[Session] = []

    def step() -> int | None:
        pacer = getattr(made[0], "pacer", None)  # None for the observation before the first step
        return None if pacer is None else pacer.steps + pacer.missed - 1

    with EpisodeWriter(path, robot=arm.spec, policy=policy.spec, control_hz=HZ) as writer:
        robot = Witness(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), arm, writer, step)
        made.append(Session(robot, policy, "switch", worker=functools.partial(_worker, writer)))
        with made[0] as session:
            writer.follow(session.events.reader())
            session.run()


def _worker(writer: EpisodeWriter, infer: Any, **options: Any) -> Worker:
    worker: Worker = plugins.load("workers", "thread")(recorded(infer, writer), **options)
    return worker


class Kept(NamedTuple):
    """What a killed recording kept.

    Attributes:
        seconds: how long the robot ran.
        logged, read: records that the process handed over, and that read back.
        lost_s: the age, at the kill, of the oldest record that did not reach the file.
        differing: records that came back with another bit.
        truncated: what the reader says.
        commands, replayed: commands in the file, and those of them that the replay sent at their step to the last
            bit.
        images, fresh: images that were seen, and those that were not the one before.
        file_bytes, raw_bytes: the file, and the arrays that were handed over.
    """

    seconds: float
    logged: int
    read: int
    lost_s: float
    differing: int
    truncated: bool
    commands: int
    replayed: int
    images: int
    fresh: int
    file_bytes: int
    raw_bytes: int


def kill_test(folder: Path, seconds: float) -> Kept:
    """Record, kill after so many seconds of running, read, compare, replay."""
    path, log = folder / "episode.mcap", folder / "digests.jsonl"
    child = subprocess.Popen([sys.executable, __file__, "--record", str(path), str(log)])
    try:
        begun = 0.0
        while not begun:  # the clock starts with the first observation
            assert child.poll() is None, "the recording process ended by itself"
            time.sleep(0.05)
            begun = time.time() if log.exists() and log.stat().st_size else 0.0
        time.sleep(seconds)
        assert child.poll() is None, "the recording process ended by itself"
    finally:
        child.send_signal(signal.SIGKILL)
        killed = time.time()
        child.wait()
    return _compare(path, log, killed)


def _compare(path: Path, log: Path, killed: float) -> Kept:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("]")]
    reader = EpisodeReader(path)
    read = differing = images = fresh = raw = 0
    last: dict[str, bytes] = {}
    for record_, line in zip(_seen(reader), lines, strict=False):
        read += 1
        if isinstance(record_, FrameRecord):
            same = line[1:] == ["frame", digest(record_.frame)]
            for name, image in record_.frame.images.items():
                images, raw = images + 1, raw + image.nbytes
                fresh += last.get(name) != (last := last | {name: image.tobytes()})[name]
            raw += sum(array.nbytes for array in record_.frame.state.values())
        else:
            assert record_.applied is not None
            same = line[1:] == ["action", digest(record_.commanded), digest(record_.applied)]
            raw += 2 * sum(command.value.nbytes for command in record_.commanded.commands.values())
        differing += not same
    lost_s = max(killed - lines[read][0], 0.0) if read < len(lines) else 0.0
    commands, replayed = _replay(path)
    seconds = lines[-1][0] - lines[0][0]
    size = path.stat().st_size
    return Kept(
        *(seconds, len(lines), read, lost_s, differing, reader.truncated, commands, replayed, images, fresh),
        *(size, raw),
    )


def _seen(reader: EpisodeReader) -> Iterator[FrameRecord | ActionRecord]:
    return (item for item in reader if isinstance(item, (FrameRecord, ActionRecord)))


def _replay(path: Path) -> tuple[int, int]:
    """Run the recording as robot and as policy, in simulated time; commands, and those sent again as they were."""
    recorded_ = {item.step: item.commanded for item in EpisodeReader(path).actions()}
    robot = plugins.load("robots", "replay")(path=str(path), pace="fast")
    policy = plugins.load("policies", "replay")(path=str(path))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    session = Session(robot, policy, "switch", worker="inline", clock=lambda: now[0], sleep=sleep)
    with session:
        session.run(seconds=(max(filter(None, recorded_)) + 1) / HZ)
        sent = list(robot.sent)
    same = sum(
        step is not None and step < len(sent) and digest(sent[step]) == digest(action)
        for step, action in recorded_.items()
    )
    return len(recorded_), same


def cost(call: Callable[[int], object], count: int, pause_s: float) -> tuple[float, float]:
    """Median and 99th percentile of one call, in microseconds, with a pause after each."""
    spent = []
    for index in range(count):
        start = time.perf_counter_ns()
        call(index)
        spent.append((time.perf_counter_ns() - start) / 1e3)
        time.sleep(pause_s)
    return statistics.median(spent), float(np.percentile(spent, 99))


def costs(folder: Path) -> tuple[list[tuple[str, float, float]], float]:
    """What the calls cost, and the bytes that a frame of three VGA images takes over its own."""
    rng = np.random.default_rng(0)
    robot = plugins.load("robots", "mock")(cameras=CAMERAS)
    layout = robot_layout(robot.spec)
    sets = [{name: rng.integers(0, 255, VGA, dtype=np.uint8) for name in CAMERAS} for _ in range(4)]
    frames = [Frame(dict(images), robot.observe().state, timestamp_ns=1) for images in sets]
    actions = [layout.action(rng.normal(size=layout.width)) for _ in range(4)]
    rows = []
    scratch = np.empty(VGA, dtype=np.uint8)
    rows.append(
        ("yardstick: copy one VGA image", *cost(lambda k: np.copyto(scratch, sets[k % 4]["head"]), 200, 0.005))
    )
    with EpisodeWriter(folder / "frames.mcap", robot=robot.spec) as writer:
        rows.append(("`frame`, three VGA images", *cost(lambda k: writer.frame(frames[k % 4], step=k), 200, 0.02)))
        for frame in frames:  # until the last is on its way to the disk
            writer.frame(frame)
    kept = sum(1 for _ in EpisodeReader(folder / "frames.mcap").frames())
    over = (folder / "frames.mcap").stat().st_size / kept - 3 * np.prod(VGA)
    with EpisodeWriter(folder / "copies.mcap", copy_images=True) as writer:
        rows.append(
            ("`frame`, the same, `copy_images=True`", *cost(lambda k: writer.frame(frames[k % 4]), 100, 0.02))
        )
    with EpisodeWriter(folder / "actions.mcap") as writer:
        rows.append(
            (
                "`action`, 16 joints, commanded and applied",
                *cost(lambda k: writer.action(actions[k % 4], actions[(k + 1) % 4], step=k), 1000, 0.001),
            )
        )
    assert not writer.dropped
    return rows, float(over)


def page(rows: list[tuple[str, float, float]], over: float, kept: Kept) -> str:
    raw = 3 * int(np.prod(VGA))
    image = np.random.default_rng(0).integers(0, 255, VGA, dtype=np.uint8)
    as_json = len(json.dumps(image.tolist())) / image.nbytes
    height, width = CAMERA_SIZE
    lines = [
        "# What recording costs",
        "",
        f"`python benchmarks/recording.py`. Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} when it ended.",
        "",
        "## On the control thread",
        "",
        "| call | median us | 99th percentile us |",
        "|---|---|---|",
        *(f"| {name} | {median:.1f} | {tail:.1f} |" for name, median, tail in rows),
        "",
        "The turn's event costs it nothing: the recorder's own thread takes it from the event ring.",
        "",
        "## On the disk",
        "",
        f"A frame of three VGA images is {raw:,} bytes of pixels, and {raw + over:,.0f} bytes in the file: "
        f"{100 * over / raw:.3f} % over. As JSON numbers the pixels alone are {as_json:.1f} times their bytes.",
        "",
        "## Killed in the middle",
        "",
        f"The simulated OpenArm, three cameras of {height}x{width} at {HZ:g} Hz, killed with SIGKILL after "
        f"{kept.seconds:.1f} s:",
        "",
        "| | |",
        "|---|---|",
        f"| frames and commands handed to the recorder | {kept.logged} |",
        f"| read back | {kept.read} |",
        f"| with a bit that differs from the digest that the process logged | {kept.differing} |",
        f"| age of the oldest record that was lost | {1e3 * kept.lost_s:.0f} ms |",
        f"| the reader says that the file is cut off | {'yes' if kept.truncated else 'no'} |",
        f"| commands in the file, and sent again by the replay at their step, to the last bit | {kept.commands}, {kept.replayed} |",
        f"| images in the frames, and those that were new | {kept.images}, {kept.fresh} |",
        f"| bytes of images, states and commands, and of the file, which holds chunks and turns too | {kept.raw_bytes:,}, {kept.file_bytes:,} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of recording before the kill")
    parser.add_argument("--no-page", action="store_true", help="print only")
    parser.add_argument("--record", nargs=2, type=Path, metavar=("FILE", "LOG"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.record:
        record(*parsed.record)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, over = costs(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        kept = kill_test(Path(folder), parsed.seconds)
    made = page(rows, over, kept)
    print(made)
    if not parsed.no_page:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(made, encoding="utf-8")
    assert kept.lost_s < LOST_S and not kept.differing and kept.commands == kept.replayed


if __name__ == "__main__":
    main()
