"""The policy in an actor on a cluster's other node: the kit, and whatever may end meanwhile."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Answer
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError
from chunkwise.options import UsageError
from chunkwise.plugins import load
from chunkwise.policies import Recipe
from chunkwise.testing import WorkerConformance
from chunkwise.testing.worker import Pipes, count
from chunkwise.workers import Infer, Worker, WorkerFailed, place

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RayWorker: Any = load("workers", "ray")
PATIENCE_S = 60.0
HERE = Path(__file__).with_name("on_nodes.py")
ends: Any = load("policies", f"{Path(__file__).with_name('fleets.py')}:ends")
STATE = {"arm": np.array([1.0, 2.0])}


class TestRayOnTheOtherNode(WorkerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, cluster: Any) -> None:
        self.address = cluster.address

    def make_worker(self, infer: Infer) -> Worker:
        made: Worker = RayWorker(infer, address=self.address, resources=("inference_pc",))
        return made


class Workers:
    """Makes workers on the cluster, and closes what it made."""

    def __init__(self, address: str, file: Path) -> None:
        self._options: dict[str, Any] = {"address": address, "resources": ("inference_pc",)}
        self._file = file
        self.made: list[Any] = []
        self.said: list[str] = []

    def of(self, name: str, **options: Any) -> Any:
        """The worker of a function of `elsewhere.py`, or of `on_nodes.py`."""
        file = HERE if name == "hang_or_tell" else self._file
        self.made.append(RayWorker(load("policies", f"{file}:{name}"), **{**self._options, **options}))
        return self.made[-1]

    def hosted(self, name: str, **options: Any) -> Any:
        """The stand-in for a policy of `elsewhere.py`."""
        maker = functools.partial(RayWorker, **{**self._options, **options})
        self.made.append(place(Recipe(f"{self._file}:{name}"), maker, self.said.append))
        return self.made[-1]


@pytest.fixture
def workers(cluster: Any, elsewhere: Path) -> Iterator[Workers]:
    made = Workers(cluster.address, elsewhere)
    yield made
    for each in made.made:
        each.close()


def ask(worker: Any, step: int = 0, frame: Frame | None = None) -> Answer:
    """One request and its answer."""
    worker.submit(frame or Frame(state=STATE), ChunkRequest(step, id=step))
    assert worker.wait(PATIENCE_S), "no answer came"
    (answer,) = worker.arrivals()
    assert answer.request == step
    made: Answer = answer
    return made


def chunk(answer: Answer) -> ActionChunk:
    assert answer.chunk is not None, answer.error
    return answer.chunk


# What is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resources", [(), ("inference_pc",)])
def test_pictures_arrive_as_they_are_and_cannot_be_written_to(
    workers: Workers, resources: tuple[str, ...]
) -> None:
    worker = workers.of("look", resources=resources)
    for step, side in enumerate((2, 300, 1200)):
        image = np.full((side, side, 3), step, dtype=np.uint8)
        rows = chunk(ask(worker, step, Frame({"eye": image}))).rows
        assert rows[0, :2].tolist() == [step * image.size, image.size]
    assert "read-only" in ask(workers.of("write_to_picture", resources=()), 0, Frame({"eye": image})).error


@pytest.mark.parametrize("resources", [(), ("inference_pc",)])
def test_pictures_that_a_policy_keeps_stay_as_they_were(workers: Workers, resources: tuple[str, ...]) -> None:
    worker = workers.of("keep", resources=resources)
    for step in range(8):
        image = np.full((64, 64, 3), step, dtype=np.uint8)
        assert chunk(ask(worker, step, Frame({"eye": image}))).rows.tolist() == [list(range(step + 1))]


def test_task_meta_and_answers_travel(workers: Workers) -> None:
    frame = Frame(state=STATE, task={"say": "reach"}, meta={"number": 3}, sequence_id=7)
    made = chunk(ask(workers.of("fraction"), 0, frame))
    assert made.first_step == 3
    assert (made.meta["task"], made.meta["meta"]["number"], made.meta["sequence"]) == ({"say": "reach"}, 3, 7)


def test_conversations_are_kept_apart(workers: Workers) -> None:
    policy = workers.hosted("Mirror")
    other = policy.session()
    policy.reset()
    asked = [each.infer(Frame(state=STATE), ChunkRequest(0)).meta["calls"] for each in (policy, other)]
    assert asked == [["reset"], ["session"]]
    other.close()


# What may go wrong --------------------------------------------------------------------------------------------


def test_a_policy_that_raises_or_exits_is_an_answer(workers: Workers) -> None:
    assert "RuntimeError: no" in ask(workers.of("refuse", resources=())).error
    assert "SystemExit: 3" in ask(workers.of("sys_exit")).error


def test_what_cannot_be_made_is_told_with_the_actors_traceback(workers: Workers) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)weights are for another robot.*in __init__"):
        workers.hosted("Raises")
    with pytest.raises(WorkerFailed, match=r"(?s)exit code 75.*the policy's actor is gone"):
        workers.hosted("Dies")
    with pytest.raises(UsageError, match=r"^policy wave has no option 'rwos' \(did you mean 'rows'\?\)"):
        place(Recipe("wave", {"rwos": 3}), functools.partial(RayWorker, address=workers._options["address"]))
    with pytest.raises(InterfaceValidationError, match="give a recipe"):
        RayWorker(Recipe("wave").make())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resources": ("inference_cp",)}, r"inference_cp 1 \(did you mean 'inference_pc'\?\); there are"),
        ({"resources": ("inference_pc=2",)}, "no node of the Ray cluster has CPU 1, inference_pc 2"),
        ({"resources": ("inference_pc=many",)}, "an amount above 0"),
        ({"num_gpus": 1.0}, "no node of the Ray cluster has CPU 1, GPU 1"),
        (
            {"address": "127.0.0.1:9"},
            "cannot join a Ray cluster at 127.0.0.1:9: .*Connection refused.*ray start --head",
        ),
    ],
)
def test_what_there_is_not_is_refused_by_name(workers: Workers, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        workers.of("look", **options)


def test_no_room_is_told(workers: Workers) -> None:
    workers.of("look")
    with pytest.raises(UsageError, match="no room on the cluster for the policy within 2 s: others use"):
        workers.of("look", start_timeout_s=4.0)


def test_two_actors_of_one_name_are_refused(workers: Workers) -> None:
    workers.of("look", actor="eyes", resources=())
    with pytest.raises(UsageError, match="'eyes'"):
        workers.of("look", actor="eyes", resources=())


# Kills --------------------------------------------------------------------------------------------------------


def killed_while_it_infers(worker: Any, tmp_path: Path, kill: Callable[[], None]) -> Answer:
    """The answer to a request in whose middle something is killed."""
    pipes = Pipes(str(tmp_path))
    try:
        worker.submit(pipes.frame, ChunkRequest(5, id=5))
        assert pipes.has_begun()
        kill()
        assert worker.wait(PATIENCE_S), "no answer came"
        (answer,) = worker.arrivals()
        made: Answer = answer
        return made
    finally:
        pipes.close()


def comes_back(worker: Any) -> ActionChunk:
    """The first chunk after a kill."""
    assert worker.ready(PATIENCE_S), "nothing was started again"
    return chunk(ask(worker, 9))


def actor_of(worker: Any) -> int:
    """The process of the actor."""
    return int(chunk(ask(worker, 1, Frame(state=STATE))).rows[0, 0])


@pytest.mark.parametrize("whom", ["actor", "driver"])
def test_a_kill_in_an_inference_is_an_error_at_once_and_another_actor_answers(
    workers: Workers, tmp_path: Path, whom: str
) -> None:
    worker = workers.of("hang_or_tell")
    actor, driver = actor_of(worker), worker.pid
    victim = actor if whom == "actor" else driver
    answer = killed_while_it_infers(worker, tmp_path, lambda: os.kill(victim, signal.SIGKILL))
    assert answer.chunk is None
    assert ("actor is gone" if whom == "actor" else "exit code -9") in answer.error
    assert ends(actor) and ends(driver)
    made = comes_back(worker)
    assert made.meta["reconnected"] and made.rows[0, 0] != actor
    assert worker.restarts == 1


def test_an_actor_that_dies_while_nobody_asks_is_started_again(workers: Workers) -> None:
    worker = workers.of("hang_or_tell")
    actor, driver = actor_of(worker), worker.pid
    os.kill(actor, signal.SIGKILL)
    assert ends(driver)
    while not worker.restarts:  # its end is noticed by a thread of its own
        assert worker.ready(PATIENCE_S)
    assert comes_back(worker).rows[0, 0] != actor


def test_a_node_that_goes_is_an_error_and_one_that_comes_is_used(
    cluster: Any, workers: Workers, tmp_path: Path
) -> None:
    node = cluster.add("spare")
    worker = workers.of("hang_or_tell", resources=("spare",))
    actor_of(worker)
    answer = killed_while_it_infers(worker, tmp_path, lambda: cluster.remove(node))
    assert answer.chunk is None and "actor is gone" in answer.error
    node = cluster.add("spare")
    assert comes_back(worker).meta["reconnected"]
    worker.close()
    cluster.remove(node)


def test_one_that_hangs_is_replaced(workers: Workers, tmp_path: Path) -> None:
    worker, pipes = workers.of("hang_or_tell"), Pipes(str(tmp_path))
    actor = actor_of(worker)
    worker.submit(pipes.frame, ChunkRequest(0))
    assert pipes.has_begun()
    worker.restart()  # as the control loop does when its time is over
    assert ends(actor)
    assert comes_back(worker).rows[0, 0] != actor
    pipes.close()


PROGRAM = """
import sys
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.plugins import load

if __name__ == "__main__":
    worker = load("workers", "ray")(load("policies", {policy!r}), address={address!r})
    worker.submit(Frame(), ChunkRequest(0))
    worker.wait(60.0)
    print(worker.pid, int(worker.arrivals()[0].chunk.rows[0, 0]), flush=True)
    worker.submit(Frame(task={{"begun": {begun!r}, "go_on": {go_on!r}}}), ChunkRequest(0))
    sys.stdin.read()
"""


def test_a_program_that_is_killed_takes_driver_and_actor_with_it(cluster: Any, tmp_path: Path) -> None:
    pipes, program = Pipes(str(tmp_path)), tmp_path / "program.py"
    policy = f"{HERE}:hang_or_tell"
    words = {"policy": policy, "address": cluster.address, **pipes.frame.task}
    program.write_text(PROGRAM.format(**words), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        said = iter(parent.stdout.readline, b"")  # Ray's driver may have said something of other nodes before
        driver, actor = next([int(word) for word in line.split()] for line in said if line[:1].isdigit())
        assert pipes.has_begun()
        parent.kill()
        parent.wait(PATIENCE_S)
    assert ends(driver) and ends(actor)
    pipes.close()


def test_closing_ends_the_actor_and_may_be_repeated(cluster: Any) -> None:
    worker = RayWorker(count, address=cluster.address)
    driver = worker.pid
    worker.close()
    worker.close()
    assert ends(driver)
