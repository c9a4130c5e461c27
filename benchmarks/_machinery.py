"""What a fleet costs beside its policies: `chunkwise up`, its driver, and what each robot has on its node.

A fleet of a few simulated robots runs on one computer, each with a policy that costs nothing in its own program.
What every process uses of a core and has of the memory is counted while they run; of `up`, the driver and the
board, which there are once, a small and a larger fleet say what a further robot adds.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

SIZES = (2, 6)
"""Robots of both fleets."""
WINDOW_S, SETTLED_S, PATIENCE_S = 20.0, 3.0, 120.0
ONCE = ("up", "driver", "board")
EACH = ("launcher", "guard", "control loop")
KINDS = {
    "board": r"^ray::Board",
    "launcher": r"^ray::Launcher",
    "driver": r"chunkwise\.cluster\._driver",
    "guard": r"/_guard\.py",
    "control loop": r"-m chunkwise run\b",
    "up": r"-m chunkwise up\b",
    "replica": r"^ray::ServeReplica",
    "controller": r"^ray::ServeController",
    "server": r"-m chunkwise serve\b",
    "raylet": r"/raylet\b",
    "head (GCS)": r"/gcs_server\b",
}
"""Command lines of the processes."""
OF_RAY = ("raylet", "head (GCS)")
MARK = "CHUNKWISE_BENCHMARK"
"""In the environment of the cluster and of all that it starts."""
SERVED = {"replica": "one for each GPU", "server": "one for its replicas", "controller": "Ray Serve's, one"}
TICKS, PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process, or one more robot in it, costs.

    Attributes:
        core: part of a core.
        memory_mb: resident, with what it has together with others, MB.
        files: descriptors that it has open.
        threads: of it.
    """

    core: float
    memory_mb: float
    files: float
    threads: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + theirs for mine, theirs in zip(_values(self), _values(other), strict=True)))

    def positive(self) -> Cost:
        """Without what is less than nothing: it is smaller than can be counted."""
        return Cost(*(max(value, 0.0) for value in _values(self)))

    def times(self, factor: float) -> Cost:
        """So many of it."""
        return Cost(*(value * factor for value in _values(self)))


@dataclass(frozen=True, slots=True)
class Machinery:
    """What a fleet costs.

    Attributes:
        each: by kind of process, what every robot has of it.
        once, further: by kind of process, one of a fleet without robots, and what a robot adds to it.
        ray: by kind of process, Ray's own on the node with the largest of the fleets.
    """

    each: Mapping[str, Cost]
    once: Mapping[str, Cost]
    further: Mapping[str, Cost]
    ray: Mapping[str, Cost]


def machinery(address: str) -> Machinery:
    """Count it, on a cluster at this address, whose nodes are all on this computer and have `MARK`."""
    small, large = (_counted(address, robots) for robots in SIZES)
    more = SIZES[1] - SIZES[0]
    further = {kind: (large[kind] + small[kind].times(-1)).times(1 / more).positive() for kind in ONCE}
    once = {kind: small[kind] + further[kind].times(-SIZES[0]) for kind in ONCE}
    return Machinery(
        {kind: large[kind].times(1 / SIZES[1]) for kind in EACH},
        once,
        further,
        {kind: large[kind] for kind in OF_RAY if kind in large},
    )


def _counted(address: str, robots: int) -> dict[str, Cost]:
    """What the processes of a fleet of so many robots cost, by kind, all of a kind together."""
    with _running(address, robots):
        time.sleep(SETTLED_S)
        found = processes()
        counts = {kind: len(pids) for kind, pids in found.items()}
        wanted = {**dict.fromkeys(ONCE, 1), **dict.fromkeys(EACH, robots)}
        assert {kind: counts.get(kind, 0) for kind in wanted} == wanted, counts
        return counted(found, lambda: time.sleep(WINDOW_S))


def counted(found: Mapping[str, list[int]], meanwhile: Callable[[], object]) -> dict[str, Cost]:
    """What processes cost while something is done, by kind, all of a kind together."""
    before, began_s = {pid: _core_s(pid) for pids in found.values() for pid in pids}, time.perf_counter()
    meanwhile()
    took_s = time.perf_counter() - began_s
    costs = {}
    for kind, pids in found.items():
        each = [_cost((_core_s(pid) - before[pid]) / took_s, pid) for pid in pids]
        costs[kind] = sum(each[1:], each[0])
    return costs


@contextmanager
def _running(address: str, robots: int) -> Iterator[None]:
    """A fleet while all of its robots run."""
    robot = {
        "robot": {"name": "mock", "arms": 1},
        "policy": "still",
        "worker": "thread",
        "strategy": "switch",
        "resources": f"here={0.9 / robots:.3f}",
    }
    fleet = {
        "policies": {"still": {"policy": {"name": "wave", "components": "arm:7"}}},
        "robots": {f"robot{number}": robot for number in range(robots)},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "benchmark.yaml")
        file.write_text(yaml.safe_dump(fleet), encoding="utf-8")
        words = ["up", str(file), "--address", address]
        with subprocess.Popen(
            [sys.executable, "-m", "chunkwise", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as command:
            overdue = threading.Timer(PATIENCE_S, command.kill)
            overdue.start()
            try:
                assert command.stdout is not None
                waited, said = set(fleet["robots"]), []
                for line in command.stdout:
                    said.append(line)
                    if line.rstrip().endswith("running"):
                        waited.discard(line.split("|")[0].strip())
                    if not waited:
                        break
                else:
                    raise RuntimeError("".join(said))
                threading.Thread(target=command.stdout.read, daemon=True).start()  # it must not fill
                yield
            finally:
                overdue.cancel()
                command.send_signal(signal.SIGINT)
                command.wait(PATIENCE_S)


def processes() -> dict[str, list[int]]:
    """The processes of the cluster and of what runs on it, by kind."""
    mark = os.environ[MARK]
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends meanwhile
            command = (folder / "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
            kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, command)), None)
            if kind is not None and mark.encode() in (folder / "environ").read_bytes():
                found.setdefault(kind, []).append(int(folder.name))
    return found


def _core_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _cost(core: float, pid: int) -> Cost:
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
    files, threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
    return Cost(core, pages * PAGE_BYTES / 1e6, files, threads)


def _values(cost: Cost) -> tuple[float, float, float, float]:
    return cost.core, cost.memory_mb, cost.files, cost.threads


def of_machinery(found: Machinery, served: Mapping[str, Cost], rate: float) -> list[str]:
    """It as a part of a page.

    Args:
        found: of a fleet.
        served: by kind of process, of replicas behind a server, the `replica` one of them.
        rate: requests that a replica was asked in a second.
    """
    lines = [
        "# What a robot and a replica cost",
        "",
        f"Fleets of {SIZES[0]} and {SIZES[1]} simulated robots at 50 Hz, `chunkwise up FLEET.yaml`, on one computer; each has a policy in its own",
        "program that costs nothing. Then two replicas behind a server, of a policy that waits and has nothing in its memory,",
        f"asked {rate:.0f} times a second each with 0.45 MB. Counted for {WINDOW_S:.0f} s: time on a core, to 0.1 % (0.02 % of a robot more), and",
        "resident memory.",
        "",
        "| process | how many | of a core | memory | files | threads |",
        "|---" * 6 + "|",
    ]
    each = {kind: (cost, "one for each robot, on its node") for kind, cost in found.each.items()}
    each |= {
        f"Ray's {kind}": (cost, "one for each node, both here together" if kind == "raylet" else "one")
        for kind, cost in found.ray.items()
    }
    each |= {kind: (cost, "one for each fleet") for kind, cost in found.once.items()}
    each |= {kind: (served[kind], many) for kind, many in SERVED.items()}
    for kind, (cost, many) in each.items():
        lines.append(
            f"| {kind} | {many} | {cost.core:.1%} | {cost.memory_mb:.0f} MB | {cost.files:.0f} | {cost.threads:.0f} |"
        )
        if kind in found.further:
            more = found.further[kind]
            lines.append(
                f"| | for each robot besides | {more.core:.2%} | {more.memory_mb:.1f} MB | {more.files:.1f} | {more.threads:.1f} |"
            )
    once, more = found.once["driver"], found.further["driver"]
    thousand, full = once + more.times(1000), (1.0 - once.core) / more.core
    lines += [
        "",
        f"By these the driver of 1000 robots would need {thousand.core:.1f} cores, {thousand.memory_mb / 1e3:.1f} GB, {thousand.files:.0f} open files (Ray sees to it that it may) and",
        f"{thousand.threads:.0f} threads. It is one program of Python and has one core, which is full with about {round(full, -1):.0f} robots: a larger fleet is several",
        "files, each with an `up` of its own. What a robot has on its own node does not depend on the others. How many nodes",
        "the head bears was not measured.",
        "",
        f"A request costs a replica {served['replica'].core / rate * 1e3:.1f} ms of a core of its node, beside what the policy does, and its server",
        f"{served['server'].core / rate / 2 * 1e3:.1f} ms here, and less the more come in a call.",
        "",
    ]
    return lines
