"""What a policy on a Ray cluster costs beside every other place for it, and how many robots replicas carry.

    .venv-ray/bin/python benchmarks/cluster.py                             # writes docs/benchmarks/cluster.md
    .venv-ray/bin/python benchmarks/cluster.py --rounds 1 --requests 50 --print

The environment is that of `make ray-env`.  Frames, policy and figures are those of `workers.py`: three pictures of
480 x 640 x 3 bytes and 24 joints there, a chunk of 50 x 24 back, from a policy that knows its answer.  The cluster
has two nodes on this computer, so that a frame for the other node is copied from store to store, but crosses no
cable.  In each round every place is measured, one after the other.  What replicas carry is in `_replicas.py`, what a robot
of a fleet costs in `_machinery.py`, the model of large fleets in `_fleet.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _fleet import Costs, Fleet, expected, fronts_for, replicas_for, simulated
from _machinery import MARK, Cost, counted, machinery, of_machinery, processes
from _replicas import (
    ASKED,
    BESIDE_S,
    BOUND_S,
    BUSY_S,
    CALL_S,
    COSTLY,
    HORIZON,
    HZ,
    LOAD_S,
    LONG,
    PERCENT,
    PERIOD_S,
    QUIET_S,
    RELOADS,
    ROBOTS,
    SLOW_S,
    STAYING,
    TOGETHER,
    Carried,
    Robots,
    Scaled,
    beside,
    carried,
    latencies,
    models,
    scaled,
)
from workers import CAMERAS, JOINTS, PAUSE_S, ROWS, Ready, measured, pictures, robot, take, us

from chunkwise import plugins
from chunkwise.contract import Frame, connect
from chunkwise.heap import keep_freed_memory
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.workers import place

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "cluster.md"
POLICY = f"{Path(__file__).with_name('workers.py')}:Ready"
STORE_BYTES = 256 << 20
REPLICAS_S = 20.0
COLUMNS = ("submit p50", "round trip p50", "round trip p99")
BEHIND = "native over TCP, a replica behind it"
LARGE = Costs(call_s=0.080, each_s=0.006, most=16, front_s=0.0, way_s=0.0, request_bytes=0)
"""A vision-language-action model of a few billion parameters on one GPU; assumed, not measured."""
SMALL_PICTURES = 3 * 224 * 224 * 3
"""Bytes of a frame whose pictures were made the policy's size before they were sent."""


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster, whose first node has `here` and whose second one has `inference_pc`."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": path}
    os.environ |= {**settings, MARK: uuid.uuid4().hex}
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 2,
        "resources": {"here": 1},
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, resources={"inference_pc": 1}, object_store_memory=STORE_BYTES)
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def served(*policy: str) -> Iterator[tuple[str, int]]:
    """The URL of a server in a process of its own, and the process.

    Args:
        *policy: words of the command about it.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = ["serve", "--policy", *policy, "--listen", f"native=tcp://127.0.0.1:{port}", "--log", "json"]
    with subprocess.Popen(
        [sys.executable, "-m", "chunkwise", *words], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            said: list[str] = []
            for line in server.stderr:
                said.append(line)
                if '"ready"' in line:
                    break
            else:
                raise RuntimeError("".join(said))
            threading.Thread(target=server.stderr.read, daemon=True).start()  # it must not fill
            yield f"native://127.0.0.1:{port}", server.pid
        finally:
            server.terminate()
            server.wait(30)


def replicas(address: str, of: str | None, count: int, **options: Any) -> list[str]:
    """Words of the command that serves replicas of a policy."""
    given = ({} if of is None else {"of": of}) | {
        "replicas": count,
        "address": address,
        "num-cpus": 0.5,
        **options,
    }
    return ["replicas", *(word for name, value in given.items() for word in (f"--policy.{name}", str(value)))]


def one(name: str, recipe: Recipe, count: int, **options: Any) -> dict[str, float]:
    """The figures of a worker, us."""
    maker: Callable[..., Any] = partial(plugins.load("workers", name), **options)
    policy: Any = place(recipe, maker)
    worker = maker(BoundPolicy(policy, connect(robot(), policy.spec)))
    try:
        return measured(worker, count)
    finally:
        worker.close()
        getattr(policy, "close", lambda: None)()


def bare(ask: Callable[[dict[str, Any]], Any], count: int) -> dict[str, float]:
    """The same of a call in this process, which waits for its answer."""
    fresh, images, trips = pictures(), pictures(), []
    for number in range(-10, count):
        take(fresh, images)
        began = time.perf_counter()
        answer = ask({"images": dict(zip(CAMERAS, images, strict=True)), "state": np.zeros(JOINTS)})
        took = time.perf_counter() - began
        assert answer.shape == (ROWS, JOINTS)
        if number >= 0:
            trips.append(took)
        time.sleep(PAUSE_S)
    return {"round trip p50": us(trips), "round trip p99": us(trips, 99)}


class Bare:
    """The policy without anything of ours."""

    def __init__(self) -> None:
        self._policy = Ready()

    def infer(self, call: dict[str, Any]) -> Any:
        """Rows."""
        return np.asarray(self._policy.infer(Frame(call["images"], {"body": call["state"]}), None).rows)  # type: ignore[arg-type]


def of_ray(address: str, count: int) -> dict[str, dict[str, float]]:
    """Ray's own ways, from this process: an actor on either node, a compiled graph, a deployment of Ray Serve."""
    import ray
    from ray.dag import InputNode

    ray.init(address=address, namespace="benchmark", logging_level="error", log_to_driver=False)
    try:
        found = {}
        for where, resources in (("this node", {"here": 0.1}), ("the other node", {"inference_pc": 1})):
            actor = ray.remote(Bare).options(num_cpus=0, resources=resources).remote()
            found[f"Ray actor, {where}"] = bare(lambda call, it=actor: ray.get(it.infer.remote(call)), count)
            if "here" in resources:
                with InputNode() as node:
                    graph = actor.infer.bind(node).experimental_compile()
                found["Ray compiled graph, this node"] = bare(
                    lambda call, it=graph: ray.get(it.execute(call)), count
                )
                graph.teardown()
            ray.kill(actor)
        found |= of_serve(count)
        return found
    finally:
        ray.shutdown()


def of_serve(count: int) -> dict[str, dict[str, float]]:
    """A deployment of Ray Serve, by its handle."""
    from ray import serve

    deployed = serve.deployment(Bare).options(
        num_replicas=1, ray_actor_options={"num_cpus": 0, "resources": {"here": 0.1}}
    )
    handle = serve.run(deployed.bind(), name="benchmark", route_prefix=None)
    try:
        return {
            "Ray Serve, by its handle": bare(lambda call: handle.infer.remote(call).result(timeout_s=10), count)
        }
    finally:
        serve.delete("benchmark")


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def a_round(address: str, url: str, behind: str, count: int) -> dict[str, dict[str, float]]:
    """Every place once.

    Args:
        address: of the cluster.
        url: of a server with the policy.
        behind: of one with a replica of it.
        count: requests.
    """
    local, remote = Recipe(POLICY), Recipe(url)
    found = {name: one(name, local, count) for name in ("inline", "thread", "process")}
    found["native over TCP (thread)"] = one("thread", remote, count)
    found[BEHIND] = one("thread", Recipe(behind), count)
    found["ray, this node"] = one("ray", local, count, address=address, resources=("here=0.1",))
    found["ray, the other node"] = one("ray", local, count, address=address, resources=("inference_pc",))
    return found | of_ray(address, count)


def table(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """The places and their figures, ms."""
    lines = ["| place | " + " | ".join(f"{column}, ms" for column in COLUMNS) + " |", "|---" * 4 + "|"]
    for name in rounds[0]:
        cells = []
        for column in COLUMNS:
            values = [each[name][column] for each in rounds if column in each[name]]
            cells.append(f"{statistics.median(values) / 1e3:.2f}" if values else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def scale(front_s: float, way_s: float) -> list[str]:
    """What the model says of fleets, with the simulation beside it."""
    lines = [
        "| robots | frame | replicas | processes in front | requests a call | latency, on paper | simulated p50, p99 | network | |",
        "|---" * 9 + "|",
    ]
    raw = sum(image.nbytes for image in pictures())
    for robots, size in (
        (8, raw),
        (64, raw),
        (64, SMALL_PICTURES),
        (256, SMALL_PICTURES),
        (1000, SMALL_PICTURES),
        (1000, raw),
    ):
        costs = Costs(LARGE.call_s, LARGE.each_s, LARGE.most, front_s * size / SMALL_PICTURES, way_s, size)
        fleet = Fleet(robots, 0.5, 0.4, 1)
        fleet = replace(fleet, fronts=fronts_for(costs, fleet))
        replicas = replicas_for(costs, fleet)
        fleet = replace(fleet, replicas=max(replicas, fleet.fronts))
        said = expected(costs, fleet)
        latencies, batch = simulated(costs, fleet, seconds=20.0)
        shown = f"{np.percentile(latencies, 50) * 1e3:.0f}, {np.percentile(latencies, 99) * 1e3:.0f} ms"
        paper = "" if said.breaks else f"{said.latency_s * 1e3:.0f} ms"
        lines.append(
            f"| {robots} | {size / 1e6:.2f} MB | {replicas or 'none will do'} | {fleet.fronts} | {batch:.1f} | {paper} "
            f"| {'' if said.breaks else shown} | {said.network:.0%} | {said.breaks} |"
        )
    return lines


def limits(front_s: float) -> list[str]:
    """Robots that fill the network, and one process in front, for both sizes of frames."""
    raw = sum(image.nbytes for image in pictures())
    said = []
    for size in (raw, SMALL_PICTURES):
        fleet = Fleet(1, 0.5, 0.4, 1)
        full, front = (
            fleet.network_bytes_s * fleet.period_s / size,
            fleet.period_s / (front_s * size / SMALL_PICTURES),
        )
        said.append(f"{full:.0f} robots that send {size / 1e6:.2f} MB (one process in front with {front:.0f})")
    return said


@dataclass(frozen=True, slots=True)
class Many:
    """What eight robots and more had of two replicas.

    Attributes:
        words: how requests were called, for people.
        counts: answers of eight robots that ask as fast as they can.
        carried: the load that was answered in time.
    """

    words: str
    counts: list[int]
    carried: Carried


def many(address: str) -> list[Many]:
    """One request in a call, and several, by two replicas each."""
    found = []
    for words, batch in (("one in a call", 1), (f"{TOGETHER} in a call, at most", TOGETHER)):
        with served(*replicas(address, COSTLY, 2, batch=batch)) as (url, server):
            with closing(Robots(url, ROBOTS)) as robots:
                robots.greedy(1.0)
                counts = robots.greedy(10.0)
            found.append(Many(words, counts, carried(url, partial(cpu_s, server))))
    return found


def of_replicas(address: str) -> tuple[dict[str, Cost], float]:
    """What two replicas, their server and Ray Serve cost, a replica of them alone; requests per second of each."""
    latencies: list[float] = []
    with (
        served(*replicas(address, COSTLY, 2, batch=TOGETHER)) as (url, _),
        closing(Robots(url, 2 * ROBOTS)) as robots,
    ):
        robots.paced(1.0)
        costs = counted(processes(), lambda: latencies.extend(robots.paced(REPLICAS_S)))
    return {**costs, "replica": costs["replica"].times(1 / 2)}, len(latencies) / REPLICAS_S / 2


def coming_and_going(address: str) -> Scaled:
    """Control loops while Ray Serve adds replicas and takes them away."""
    import ray
    from ray import serve

    ray.init(address=address, namespace="benchmark", logging_level="error", log_to_driver=False)

    def running() -> int:
        states = [each.deployments["policy"].replica_states for each in serve.status().applications.values()]
        return max((each.get("RUNNING", 0) for each in states), default=0)

    policy = f"{{name: '{COSTLY}', call_s: {SLOW_S}, rows: {LONG}, sees: false}}"
    scale = {"most-replicas": 3, "batch": 1, "more-after-s": 2, "fewer-after-s": 5}
    try:
        with served(*replicas(address, policy, 1, **scale)) as (url, _):
            return scaled(url, running)
    finally:
        ray.shutdown()


def several(address: str) -> dict[str, list[float]]:
    """Latencies of requests by where their model is, s."""
    found = {}
    with served(*replicas(address, None, 2, models=models("one", "two"))) as (url, _):
        found["is on every replica"] = latencies(url, ["one", "two"], ASKED)
    apart = {"models": models("one", "two"), "models-per-replica": 1}
    with served(*replicas(address, None, 2, **apart)) as (url, _):
        found["is on one of two replicas"] = latencies(url, ["one", "two"], ASKED)
    moving = {"models": models("kept", "one", "two"), "models-per-replica": 2}
    with served(*replicas(address, None, 1, **moving)) as (url, _):
        found["is there, while nothing is loaded"] = latencies(url, ["kept"], ASKED)
        loaded, meanwhile = beside(url, "kept", ["one", "two"])
    return found | {"is there, while another one is loaded": meanwhile, "has to be loaded": loaded}


def of_several(found: dict[str, list[float]]) -> list[str]:
    """The same as a part of the page."""
    lines = [
        "# Several models",
        "",
        f"Models that share replicas, behind a server. One takes {LOAD_S:g} s to be made, and answers at once; a request has no pictures.",
        f"{RELOADS} requests for models that have to be loaded, each of which puts another one out, {ASKED} of the others and as many as",
        f"a robot asks that does so every {BESIDE_S * 1e3:.0f} ms, while they are loaded.",
        "",
        "| the model | p50, ms | p99, ms | longest, ms |",
        "|---" * 4 + "|",
    ]
    for words, values in found.items():
        p50_s, high_s = np.percentile(values, [50, 99], method="higher")
        lines.append(f"| {words} | {p50_s * 1e3:.1f} | {high_s * 1e3:.1f} | {max(values) * 1e3:.1f} |")
    return [*lines, ""]


def of_many(found: list[Many], scaled: Scaled) -> list[str]:
    """Both as a part of the page."""
    lines = [
        "# Replicas",
        "",
        f"Two replicas behind a server, which robots ask over native TCP. A call of the policy takes {CALL_S * 1e3:.0f} ms, whatever it has in",
        "it, and leaves the processor alone: it stands for a network on a GPU. A request has three pictures of 224 x 224.",
        "",
        f"*Fair*: {ROBOTS} robots ask again as soon as they are answered, for 10 s; the difference between the most and the least",
        f"answers of a robot. *In time*: robots ask every {PERIOD_S * 1e3:.0f} ms, more and more of them; the most of which {PERCENT} % of the",
        f"answers come within {BOUND_S * 1e3:.0f} ms.",
        "",
        "| requests | answers of eight | differ by | robots in time | answers per second | p50, ms | p99, ms |",
        "|---" * 7 + "|",
    ]
    for each in found:
        differ, best = 1 - min(each.counts) / max(each.counts), each.carried
        lines.append(
            f"| {each.words} | {min(each.counts)} to {max(each.counts)} | {differ:.1%} | {best.robots} | {best.rate:.0f} "
            f"| {best.p50_s * 1e3:.0f} | {best.high_s * 1e3:.0f} |"
        )
    ratio = found[1].carried.rate / max(found[0].carried.rate, 1e-9)
    changes = ", ".join(f"{count} from {at_s:.0f} s on" for at_s, count in scaled.replicas)
    lines += [
        "",
        f"Together, {ratio:.1f} times as many requests are answered within the same bound.",
        "",
        f"Replicas that come and go: {ROBOTS} control loops of {HZ:.0f} Hz ask for {LONG} rows every {HORIZON} steps, of a policy that takes",
        f"{SLOW_S * 1e3:.0f} ms for each request. After {BUSY_S:.0f} s all but {STAYING} of them end; those go on for {QUIET_S:.0f} s. Replicas that ran: {changes}.",
        f"Of {scaled.steps} commands {scaled.starved} held because a plan had run dry; {scaled.requests} requests, {scaled.faults} faults.",
        "",
    ]
    return lines


def page(
    rounds: list[dict[str, dict[str, float]]],
    count: int,
    found: list[Many],
    scaled: Scaled,
    by_model: dict[str, list[float]],
    costs: list[str],
) -> str:
    """The figures as a document."""
    import ray

    front_s = found[1].carried.front_s
    way_s = statistics.median(each[BEHIND]["round trip p50"] for each in rounds) / 1e6
    lines = [
        "# What a cluster costs",
        "",
        "`.venv-ray/bin/python benchmarks/cluster.py`. Three pictures of 480 x 640 x 3 bytes and 24 joints go to the policy, a",
        f"chunk of {ROWS} x {JOINTS} comes back; the policy knows its answer. {count} requests a round, 2 ms apart; the median of {len(rounds)}",
        "rounds, and every place is measured in every round. *submit* is the control loop's own share. The other node is",
        "a node of the same computer: its frames are copied from store to store, and cross no cable.",
        f"Ray {ray.__version__}, Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores.",
        "",
        *table(rounds),
        "",
        "The rows that begin with *Ray* are Ray's own, asked by a program that waits: without a control loop beside it,",
        "without the process that stands between the loop and the cluster, without checks. A compiled graph is the quickest",
        "of them on one node. The worker does without it: between nodes, an answer that comes when its graph was given up",
        "takes the asking node's raylet with it (Ray 2.60), and on one node a driver that is killed leaves its semaphores in",
        "`/dev/shm`; there `process` is as quick.",
        "",
        *of_many(found, scaled),
        *of_several(by_model),
        *costs,
        "# How many robots",
        "",
        "A model of the queue (`benchmarks/_fleet.py`), and the same simulated request by request. Measured here: what a server",
        f"with two replicas behind it uses of its core for a request of 0.45 MB, {front_s * 1e3:.2f} ms with {found[1].carried.robots} robots (as much more for",
        f"larger frames, which is more than it is); the way there and back, {way_s * 1e3:.1f} ms, of raw frames. Assumed: a policy",
        f"that takes {LARGE.call_s * 1e3:.0f} ms for a call and {LARGE.each_s * 1e3:.0f} ms for each request in it, {LARGE.most} at most, what a replica's core does included; every robot asks twice a second and needs its",
        "answer within 0.4 s; 10 Gbit/s each way, for a frame comes in to a process in front and goes out to a replica. *replicas*",
        "is the least number that the model allows, as many behind each process in front. Each has a GPU to itself: two on one",
        "would share its time, and need its memory twice.",
        "",
        *scale(front_s, way_s),
        "",
        "Replicas answer more in a call the more they are asked, and can be added. A process in front uses one core, has",
        "replicas of its own, and takes 256 robots unless `--max-sessions` says more; others can be added. So can fleets, one for",
        "what a driver carries. The network cannot, and breaks first: it is full with",
        ", and with ".join(limits(front_s)) + ".",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--robots", action="store_true", help="print what a robot and a replica cost, and no more")
    parser.add_argument("--print", action="store_true", help="write no page")
    options = parser.parse_args()
    keep_freed_memory()
    if options.robots:
        with two_nodes() as address:
            print("\n".join(of_machinery(machinery(address), *of_replicas(address))))
        return
    with two_nodes() as address:
        with (
            served(POLICY) as (url, _),
            served(*replicas(address, POLICY, 1, resources="here=0.1")) as (behind, _),
        ):
            rounds = [a_round(address, url, behind, options.requests) for _ in range(options.rounds)]
        costs = of_machinery(machinery(address), *of_replicas(address))
        text = page(rounds, options.requests, many(address), coming_and_going(address), several(address), costs)
    sys.stdout.write(text)
    if not options.print:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
