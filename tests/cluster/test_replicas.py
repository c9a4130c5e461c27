"""Two replicas of a policy, kept by Ray Serve, alone and behind a server; one of them is killed, or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Scheduler, SourceKind
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, connect, robot_for
from chunkwise.options import UsageError
from chunkwise.policies import Policy
from chunkwise.server import Listen, Server
from chunkwise.testing import PolicyConformance
from chunkwise.testing.world import World
from chunkwise.transports import Address
from chunkwise.workers import WorkerFailed

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Serve about its own dependencies
]

Replicas: Any = plugins.load("policies", "replicas")
Remote: Any = plugins.load("policies", "remote")
HERE = Path(__file__).with_name("on_nodes.py")
ends: Any = plugins.load("policies", f"{Path(__file__).with_name('fleets.py')}:ends")
FRAME = Frame(state={"arm": np.zeros(3)})
ROBOTS = 8
PATIENCE = 2000
"""Rounds of questions until something must have happened."""
PATIENCE_S = 60.0
BREATH, BREATH_S = threading.Event(), 0.02
"""Between two rounds where no replica runs, and the answer is an error at once."""


def together(call_s: float = 0.0, rows: int = 1) -> dict[str, Any]:
    return {"name": f"{HERE}:Together", "call_s": call_s, "rows": rows}


@pytest.fixture(scope="module")
def replicas(cluster: Any) -> Iterator[Any]:
    made = Replicas(of=together(), replicas=2, num_cpus=0.5, address=cluster.address, timeout_s=4.0)
    yield made
    made.close()
    made.close()


def ask(replicas: Any, steps: list[int], **said: Any) -> list[Any]:
    frame = Frame(state=FRAME.state, task=said)
    answers: list[Any] = replicas.infer_many([(frame, ChunkRequest(step, id=step)) for step in steps])
    return answers


def processes(answers: list[Any]) -> set[int]:
    return {int(answer.rows[0, 2]) for answer in answers if isinstance(answer, ActionChunk)}


def both(replicas: Any) -> set[int]:
    """The processes of two replicas that answer."""
    found: set[int] = set()
    for _ in range(PATIENCE):
        found |= processes(ask(replicas, [0]))
        if len(found) == 2:
            return found
        BREATH.wait(BREATH_S)
    raise AssertionError("one replica answers everything")


class Gate:
    """A named pipe; whoever opens it to read waits until the gate is open, too."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        self._opened = -1

    def open(self) -> None:
        self._opened = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Twice is fine."""
        opened, self._opened = self._opened, -1
        if opened >= 0:
            os.close(opened)


def two_run(replicas: Any) -> None:
    """Until it is known that both run."""
    for _ in range(PATIENCE):
        if replicas.calls_at_once == 2:
            return
        BREATH.wait(BREATH_S)
    raise AssertionError("one replica runs")


def another(replicas: Any, than: set[int]) -> None:
    """Ask until a further replica answers; nobody is left without an answer or an error."""
    for _ in range(PATIENCE):
        answers = ask(replicas, [0, 1])
        assert all(isinstance(each, (ActionChunk, WorkerFailed)) for each in answers)
        if processes(answers) - than:
            return
        BREATH.wait(BREATH_S)
    raise AssertionError("no other replica came")


class Kept:
    """The replicas, as a policy whose `close` leaves them to the next test."""

    def __init__(self, replicas: Any) -> None:
        self.spec, self.infer, self.infer_many = replicas.spec, replicas.infer, replicas.infer_many

    def session(self) -> Kept:
        return self


class TestReplicas(PolicyConformance):
    @pytest.fixture(autouse=True)
    def _on(self, replicas: Any) -> None:
        self.replicas = replicas

    def make_policy(self) -> Policy:
        return Kept(self.replicas)


def test_a_call_goes_to_one_replica_and_its_answers_are_in_order(replicas: Any) -> None:
    assert replicas.max_batch == 8 and replicas.calls_at_once == 2 and replicas.session() is replicas
    for first in range(0, 80, 8):
        steps = list(range(first, first + 8))
        answers = ask(replicas, steps)
        assert [answer.rows[0, 0] for answer in answers] == steps
        assert {answer.rows[0, 1] for answer in answers} == {8} and len(processes(answers)) == 1
    both(replicas)


def test_an_error_is_of_its_request_alone(replicas: Any) -> None:
    first, wrong, last = ask(replicas, [1, -1, 3])
    assert first.rows[0, 0] == 1.0 and last.rows[0, 0] == 3.0
    assert "no such step: -1" in str(wrong)
    with pytest.raises(ValueError, match="no such step: -1"):
        replicas.infer(FRAME, ChunkRequest(-1))


def test_a_replica_that_is_killed_costs_nobody_an_answer_and_is_replaced(replicas: Any) -> None:
    before = both(replicas)
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):
        assert all(isinstance(each, ActionChunk) for each in ask(replicas, [0, 1, 2]))
    another(replicas, before)


def test_who_kills_replicas_is_told_and_nobody_else_is(replicas: Any) -> None:
    before = both(replicas)
    frames = [FRAME, Frame(state=FRAME.state, task={"word": "die"}), FRAME]
    first, poison, last = replicas.infer_many([(frame, ChunkRequest(0)) for frame in frames])
    assert isinstance(poison, WorkerFailed) and "a replica gave no answer" in str(poison)
    assert all(isinstance(each, (ActionChunk, WorkerFailed)) for each in (first, last))
    another(replicas, before)


def test_a_replica_that_hangs_is_given_up_and_replaced(replicas: Any) -> None:
    before = both(replicas)
    (late,) = ask(replicas, [0], word="hang")
    assert "no answer within 4 s" in str(late)
    another(replicas, before)


def test_an_answer_that_is_none_is_of_its_request_alone(replicas: Any) -> None:
    frames = [FRAME, Frame(state=FRAME.state, task={"word": "deep"}), FRAME]
    first, wrong, last = replicas.infer_many([(frame, ChunkRequest(0)) for frame in frames])
    assert isinstance(first, ActionChunk) and isinstance(last, ActionChunk)
    assert isinstance(wrong, InterfaceValidationError) and "gave no answer" in str(wrong)


def test_replicas_answer_while_nobody_says_which_of_them_run(replicas: Any, monkeypatch: Any) -> None:
    asked = threading.Semaphore(0)

    def out_of_reach() -> Any:
        asked.release()
        raise ConnectionError("the controller starts again")

    two_run(replicas)
    with monkeypatch.context() as patch:
        patch.setattr(replicas._deployment, "_look", out_of_reach)
        assert asked.acquire(timeout=PATIENCE_S) and asked.acquire(timeout=PATIENCE_S)
        assert replicas.calls_at_once == 2
        assert all(isinstance(each, ActionChunk) for each in ask(replicas, [0, 1]))


def test_replicas_outlive_ray_serves_controller(replicas: Any) -> None:
    import ray
    from ray import serve

    def controller() -> Any:
        return ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")

    def back() -> bool:
        """Whether there is another one, and it has found our replicas."""
        with suppress(ray.exceptions.RayError):
            if ray.get(controller().get_pid.remote(), timeout=PATIENCE_S) != pid:
                states = [
                    each.deployments["policy"].replica_states for each in serve.status().applications.values()
                ]
                return bool(states) and all(each.get("RUNNING", 0) == 2 for each in states)
        return False

    before = both(replicas)
    two_run(replicas)
    pid = ray.get(controller().get_pid.remote())
    ray.kill(controller(), no_restart=False)
    while not back():
        assert all(isinstance(each, ActionChunk) for each in ask(replicas, [0, 1, 2]))
        assert replicas.calls_at_once == 2
    assert both(replicas) == before


def test_while_no_replica_runs_nobody_waits_for_one(cluster: Any, tmp_path: Path) -> None:
    with closing(Gate(tmp_path)) as gate:
        gate.open()
        policy = {"name": f"{HERE}:Checkpoint", "number": 1, "gate": str(gate.path)}
        with closing(Replicas(of=policy, num_cpus=0.5, address=cluster.address)) as alone:
            (answer,) = ask(alone, [0])
            gate.close()
            os.kill(int(answer.rows[0, 2]), signal.SIGKILL)
            for _ in range(3):  # the next one is not made before the gate is open
                (none,) = ask(alone, [0])
                assert isinstance(none, WorkerFailed), none
            gate.open()
            another(alone, processes([answer]))


def test_replicas_that_are_never_made_are_given_up_and_end(cluster: Any, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with closing(Gate(tmp_path)) as gate:
        policy = {"name": f"{HERE}:Checkpoint", "number": 1, "gate": str(gate.path), "diary": str(diary)}
        with pytest.raises(WorkerFailed, match="the replicas do not run"):
            Replicas(of=policy, num_cpus=0.5, address=cluster.address, start_timeout_s=3.0)
        begun = diary.read_text(encoding="utf-8").split()
        assert begun[:2] == ["begun", "1"] and all(ends(int(pid)) for pid in begun[2::3])


def test_who_asks_what_has_been_closed_is_told(cluster: Any) -> None:
    replicas = Replicas(of=together(), num_cpus=0.5, address=cluster.address)
    replicas.close()
    (answer,) = ask(replicas, [0])
    assert isinstance(answer, WorkerFailed)
    assert not replicas._deployment._watcher.is_alive()


def test_what_cannot_be_replicated_is_refused(cluster: Any) -> None:
    options = {"num_cpus": 0.5, "address": cluster.address}
    with pytest.raises(InterfaceValidationError, match=r"scripted remembers its client .* --worker ray"):
        Replicas(of="scripted", **options)
    with pytest.raises(UsageError, match="1 <= replicas <= most_replicas"):
        Replicas(of="wave", replicas=3, most_replicas=2, **options)
    with pytest.raises(UsageError, match=r"did you mean 'inference_pc'"):
        Replicas(of="wave", resources=("inference_cp",), **options)
    with pytest.raises(UsageError, match="of: one policy, or models: several"):
        Replicas(**options)
    with pytest.raises(UsageError, match=r"models_per_replica: from 1 to 2, .* got 3"):
        Replicas(models={"a": "wave", "b": "wave"}, models_per_replica=3, **options)
    with pytest.raises(UsageError, match="of: which policy"):
        Replicas(of={"components": "arm:7"}, **options)
    with pytest.raises(WorkerFailed, match=r"(?s)do not run .*no option 'rwos'"):
        Replicas(of={"name": "wave", "rwos": 3}, **options)


# Behind a server ----------------------------------------------------------------------------------------------


@contextmanager
def serving(policy: Any, address: Address) -> Iterator[None]:
    """A server of this policy, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server(lambda: policy, [Listen("native", plugins.load("wires", "native")(), address)])

    async def begin() -> None:
        await server.start()
        await server.service.loaded

    try:
        asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_S)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(drain_s=0.0), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def served(cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes replicas, a server for them, and the connections of some robots with it."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[Any, list[Any]]:
            made = stack.enter_context(closing(Replicas(num_cpus=0.5, address=cluster.address, **options)))
            address = Address("unix", str(tmp_path / "policy.sock"))
            stack.enter_context(serving(made, address))
            robots = [Remote(url=f"native+unix://{address.path}", timeout_s=PATIENCE_S) for _ in range(ROBOTS)]
            return made, [stack.enter_context(closing(robot)) for robot in robots]

        yield make


def at_once(work: Callable[[Any], None], robots: list[Any]) -> None:
    """Everybody's work, in threads; what one of them raises is raised."""
    failed: list[BaseException] = []

    def run(robot: Any) -> None:
        try:
            work(robot)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=run, args=(robot,)) for robot in robots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_eight_robots_on_two_replicas_are_served_alike_and_together(served: Any) -> None:
    _, robots = served(of=together(call_s=0.01), replicas=2)
    answers: Counter[Any] = Counter()
    calls: list[float] = []

    def work(robot: Any) -> None:
        while answers.total() < 60 * ROBOTS:
            answer = robot.infer(FRAME, ChunkRequest(0))
            calls.append(1 / answer.rows[0, 1])
            answers[robot] += 1

    at_once(work, robots)
    most, least = max(answers.values()), min(answers.values())
    assert least >= 0.9 * most, f"{sorted(answers.values())}"
    assert len(calls) >= 2 * sum(calls), "what waits for a replica goes in one call"


def test_replicas_come_and_go_and_no_plan_runs_dry(served: Any) -> None:
    replicas, robots = served(
        of=together(call_s=0.01, rows=16),
        replicas=1,
        most_replicas=2,
        batch=2,
        more_after_s=0.5,
        fewer_after_s=0.5,
    )
    spec = robots[0].spec
    layout = connect(robot_for(spec), spec).layout
    seen: Counter[str] = Counter()

    def work(robot: Any) -> None:
        scheduler = Scheduler(layout, plugins.load("strategies", "switch")(), hold=np.zeros(3))
        world = World(scheduler, lambda frame, request: robot.infer(FRAME, request), delay=4)
        for _ in range(PATIENCE):
            begun = world.step + 1
            decisions = world.run(range(begun, begun + 50))
            assert all(each.source.kind is not SourceKind.STARVED for each in decisions)
            if begun > 1:  # the very first chunk begins when it comes
                assert all(each.row[0] == each.step for each in decisions), "a row is where it does not belong"
            if robot is not robots[0] and replicas.calls_at_once == 2:
                seen["two"] += 1
                return
            if robot is robots[0] and seen["two"] == ROBOTS - 1 and replicas.calls_at_once == 1:
                seen["one again"] += 1
                return

    at_once(work, robots)
    assert seen == {"two": ROBOTS - 1, "one again": 1}


# The command --------------------------------------------------------------------------------------------------


def until_ready(server: Any) -> None:
    """Read what a server says, and Ray beside it, until it is ready."""
    for line in server.stderr:
        with suppress(ValueError, TypeError, KeyError):  # a line of Ray's
            if json.loads(line)["event"] == "ready":
                return
    raise AssertionError("the server ended before it was ready")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_replicas_end_with_their_server(cluster: Any, tmp_path: Path, end: signal.Signals) -> None:
    address = f"unix:{tmp_path}/policy.sock"
    words = ["serve", "--policy", "replicas", "--policy.of", f"{HERE}:Together", "--policy.replicas", "2"]
    words += ["--policy.num-cpus", "0.5", "--policy.address", cluster.address, "--listen", f"native={address}"]
    with subprocess.Popen(
        [sys.executable, "-m", "chunkwise", *words, "--log", "json"], stderr=subprocess.PIPE, text=True
    ) as server:
        until_ready(server)
        with closing(Remote(url=f"native+{address}".replace("unix:", "unix://"))) as robot:
            replicas = processes([robot.infer(FRAME, ChunkRequest(0)) for _ in range(20)])
        server.send_signal(end)
        assert server.stderr is not None
        server.stderr.read()
    assert server.returncode == (0 if end is signal.SIGTERM else -end)
    assert all(map(ends, replicas))
