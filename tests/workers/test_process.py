"""The process worker with policies that die, hang, stop and grow; nothing here sleeps."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Answer
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Command,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyTimedOut,
    RobotSpec,
    connect,
)
from chunkwise.contract.values import Action
from chunkwise.options import UsageError
from chunkwise.plugins import UnknownAdapter, load
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.testing.worker import Pipes, count, hang
from chunkwise.workers import WorkerFailed, place
from chunkwise.workers._keeper import BUSY_END_S

ProcessWorker: Any = load("workers", "process")
FILE = Path(__file__).with_name("elsewhere.py")
PATIENCE_S = 30.0


def recipe(name: str, **options: Any) -> Recipe:
    return Recipe(f"{FILE}:{name}", options)


class Workers:
    """Makes workers, and closes what it made."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.said: list[str] = []

    def of(self, name: str, **options: Any) -> Any:
        """The worker of a function of `elsewhere.py`."""
        function = load("policies", f"{FILE}:{name}")
        self.made.append(ProcessWorker(function, **options))
        return self.made[-1]

    def hosted(self, made_of: Recipe, **options: Any) -> Any:
        """A stand-in."""
        self.made.append(place(made_of, functools.partial(ProcessWorker, **options), self.said.append))
        return self.made[-1]

    def bound(self, made_of: Recipe, **options: Any) -> Any:
        """A worker whose policy is bound to the arm."""
        policy = self.hosted(made_of, **options)
        policy.worker = ProcessWorker(BoundPolicy(policy, connect(arm(), policy.spec)))
        return policy.worker


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    for each in made.made:
        each.close()


def arm() -> RobotSpec:
    component = ComponentSpec("arm", "arm", 2, ["joint_position"], joint_names=["shoulder", "elbow"])
    return RobotSpec("two joints", [], [component])


def ask(worker: Any, step: int = 0, frame: Frame | None = None, **more: Any) -> Answer:
    """One request and its answer."""
    worker.submit(frame or Frame(state={"arm": np.array([1.0, 2.0])}), ChunkRequest(step, id=step, **more))
    assert worker.wait(PATIENCE_S), "no answer came"
    (answer,) = worker.arrivals()
    assert answer.request == step
    made: Answer = answer
    return made


def chunk(answer: Answer) -> ActionChunk:
    assert answer.chunk is not None, answer.error
    return answer.chunk


# Frames and answers -------------------------------------------------------------------------------------------


def test_pictures_are_seen_in_place_and_cannot_be_written_to(workers: Workers) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert chunk(ask(workers.of("look"), 0, Frame({"eye": image}))).rows.tolist() == [[276.0, 24.0, 1.0]]
    answer = ask(workers.of("write_to_picture"), 0, Frame({"eye": image}))
    assert "read-only" in answer.error


def test_a_frame_larger_than_the_ring_gets_another_ring(workers: Workers) -> None:
    worker = workers.of("look")
    for step, side in enumerate((8, 300, 16, 700)):
        image = np.full((side, side, 3), step, dtype=np.uint8)
        assert chunk(ask(worker, step, Frame({"eye": image}))).rows[0, :2].tolist() == [
            step * image.size,
            image.size,
        ]


def test_pictures_of_any_layout_and_type_arrive_as_they_are(workers: Workers) -> None:
    worker = workers.of("look")
    depth = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    odd = {"before": np.zeros((1, 1, 3), dtype=np.uint8), "eye": depth.T}
    assert chunk(ask(worker, 0, Frame(odd))).rows[0, 0] == pytest.approx(float(depth.sum()))


def test_a_policy_that_keeps_pictures_has_them_still(workers: Workers) -> None:
    worker = workers.of("keep", slots=4)
    for step in range(8):
        image = np.full((4, 4, 3), step, dtype=np.uint8)
        assert chunk(ask(worker, step, Frame({"eye": image}))).rows[0].tolist() == list(range(step + 1))


def test_task_and_meta_arrive_and_what_cannot_is_refused(workers: Workers) -> None:
    worker = workers.of("fraction")
    frame = Frame(task={"prompt": "fold é"}, meta={"n": 3, "l": [1, {"a": None}]}, timestamp_ns=5, sequence_id=9)
    made = chunk(ask(worker, 0, frame))
    about = {"task": {"prompt": "fold é"}, "meta": {"n": 3, "l": [1, {"a": None}]}, "sequence": 9, "stamp": 5}
    assert (made.first_step, made.meta) == (3, about)
    error = ask(worker, 1, Frame(meta={"driver": object()})).error
    assert "frame.meta.driver" in error and "plain values" in error
    long = "x" * 200_000
    assert chunk(ask(worker, 2, Frame(task={"prompt": long}))).meta["task"] == {"prompt": long}


def test_requests_carry_the_running_plan(workers: Workers) -> None:
    worker = workers.of("echo")
    plan = [Action({"arm": Command("joint_position", [float(i), 0.5])}) for i in range(3)]
    made = chunk(
        ask(
            worker,
            prev_action_chunk=plan,
            inference_delay=2,
            execute_horizon=5,
            prefix=np.ones((2, 3)),
            prefix_weights=np.array([1.0, 0.5]),
        )
    )
    assert made.meta == {
        "delay": 2,
        "horizon": 5,
        "plan": [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]],
        "prefix": [[1.0] * 3] * 2,
        "weights": [1.0, 0.5],
    }


def test_a_flipped_byte_is_found_by_the_checksum(workers: Workers) -> None:
    worker = workers.of("look", checksum=True)
    image = np.ones((4, 4, 3), dtype=np.uint8)
    assert chunk(ask(worker, 0, Frame({"eye": image}))).rows[0, 0] == 48
    host = worker._host
    write = host.write

    def flipped(*arguments: Any) -> Any:
        placed = write(*arguments)
        host._ring.memory.buffer[64 + 5] ^= 1
        return placed

    host.write = flipped
    assert "checksum" in ask(worker, 1, Frame({"eye": image})).error


def test_the_binding_happens_there(workers: Workers) -> None:
    worker = workers.bound(recipe("Mirror", offset=10.0))
    made = chunk(ask(worker, 0, Frame(state={"arm": np.array([1.0, 2.0])})))
    assert made.rows.tolist() == [[11.0, 12.0]]  # the elbow first there, and back in the robot's order here
    assert made.meta["pid"] == worker.pid != os.getpid()
    assert not made.rows.flags.writeable


# The policy by name -------------------------------------------------------------------------------------------


def test_a_policy_that_was_made_here_is_refused() -> None:
    with pytest.raises(InterfaceValidationError, match=r"Recipe\('my_policy.py:Made'"):
        place(type("Made", (), {"infer": lambda self, frame, request: None})(), "process")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [lambda frame, request: None, functools.partial(count)])
def test_a_function_without_a_name_is_refused(function: Any) -> None:
    with pytest.raises(InterfaceValidationError, match="cannot be found by its name in another process"):
        ProcessWorker(function)


def test_what_is_wrong_with_a_recipe_is_said_as_it_is_here() -> None:
    with pytest.raises(UsageError, match=r"no option 'ofset' \(did you mean 'offset'\?\)") as refused:
        place(recipe("Mirror", ofset=1.0), "process")
    assert not hasattr(refused.value, "__notes__")
    with pytest.raises(UnknownAdapter, match=r"has no 'Miror' \(did you mean 'Mirror'\?\)"):
        place(recipe("Miror"), "process")


def test_an_option_that_is_offered_is_taken_where_there_is_one(workers: Workers) -> None:
    worker = workers.bound(Recipe(f"{FILE}:Mirror", offered={"control_hz": 25.0, "colour": "red"}))
    assert chunk(ask(worker)).meta["rate"] == 25.0


# Starting -----------------------------------------------------------------------------------------------------


def test_a_constructor_that_raises_is_told_with_its_traceback() -> None:
    with pytest.raises(WorkerFailed) as failed:
        place(recipe("Raises"), "process")
    assert "RuntimeError: the weights are for another robot" in str(failed.value)
    assert "elsewhere.py" in str(failed.value), "its own traceback"


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(WorkerFailed, match="No module named 'no_such_module_anywhere'"):
        place(recipe("NeedsWhatIsNotThere"), "process")


def test_a_constructor_that_leaves_is_told() -> None:
    with pytest.raises(WorkerFailed, match="SystemExit: I am leaving"):
        place(recipe("Leaves"), "process")


def test_a_process_that_dies_while_it_loads_says_how_and_its_last_words() -> None:
    with pytest.raises(WorkerFailed) as failed:
        place(recipe("Dies"), "process")
    assert "exit code -9 (SIGKILL: out of memory?)" in str(failed.value)
    assert "allocating 80 GiB" in str(failed.value)


def test_a_policy_that_is_never_made_is_given_up() -> None:
    with pytest.raises(WorkerFailed, match=r"did not load its policy within 0\.5 s"):
        place(recipe("Hangs"), functools.partial(ProcessWorker, start_timeout_s=0.5))


# Dying and hanging --------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_in_an_inference_is_an_error_and_the_next_call_works(
    workers: Workers, tmp_path: Path
) -> None:
    worker, pipes = ProcessWorker(hang), Pipes(str(tmp_path))
    workers.made += [worker, pipes]
    worker.submit(pipes.frame, ChunkRequest(0, id=0))
    assert pipes.has_begun()
    before = worker.pid
    os.kill(before, signal.SIGKILL)
    assert worker.wait(PATIENCE_S)
    (answer,) = worker.arrivals()
    assert answer.chunk is None and "exit code -9 (SIGKILL: out of memory?)" in answer.error
    pipes.let_go()
    assert worker.ready(PATIENCE_S)
    made = chunk(ask(worker, 5, pipes.frame))
    assert made.rows[0, 0] == 5 and made.meta["reconnected"], "the delay of before is forgotten"
    assert "reconnected" not in chunk(ask(worker, 6, pipes.frame)).meta
    assert worker.pid != before and worker.restarts == 1


def test_a_request_without_a_process_is_answered_at_once(workers: Workers) -> None:
    worker = workers.of("exit_now")
    assert chunk(ask(worker, 0)).rows.shape == (1, 1)
    assert "ended with exit code 7" in ask(worker, 1).error
    worker._host._keeper.close()  # it is not started again
    assert "the policy has no process: " in ask(worker, 2).error


def test_a_stopped_process_is_replaced_by_a_restart(workers: Workers) -> None:
    worker = workers.bound(recipe("Stops"))
    stopped = worker.pid
    worker.submit(Frame(state={"arm": np.zeros(2)}), ChunkRequest(1, id=1))
    os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
    assert not worker.wait(0.0)
    worker.restart()
    assert worker.arrivals() == ()
    assert worker.ready(PATIENCE_S)
    assert chunk(ask(worker, 2)).rows.shape == (1, 2)
    assert worker.pid != stopped
    assert any("did not answer request 1 in time" in text and "stopped" in text for text in workers.said)


def test_a_restart_with_nothing_under_way_keeps_the_process(workers: Workers) -> None:
    worker = workers.of("sys_exit")
    before = worker.pid
    worker.restart()
    assert ask(worker).error == "SystemExit: 3"
    assert worker.pid == before and worker.restarts == 0


def test_a_new_process_is_told_all_that_the_old_one_was_told(workers: Workers) -> None:
    policy = workers.hosted(recipe("Mirror"))
    policy.meet(arm())
    policy.warmup()
    worker = ProcessWorker(BoundPolicy(policy, connect(arm(), policy.spec)))
    os.kill(worker.pid, signal.SIGKILL)
    frame = Frame(state={"arm": np.array([1.0, 2.0])})
    with pytest.raises(WorkerFailed):
        while True:  # it may answer once more before it ends
            policy.infer(frame, ChunkRequest(0))
    assert worker.ready(PATIENCE_S)
    made = chunk(ask(worker))
    assert made.rows.tolist() == [[1.0, 2.0]] and made.meta["calls"] == ["meet two joints", "warmup"]


# The stand-in -------------------------------------------------------------------------------------------------


def test_the_stand_in_is_a_policy_like_the_one_it_stands_for(workers: Workers) -> None:
    policy = workers.hosted(recipe("Mirror"))
    assert policy.spec == load("policies", f"{FILE}:Mirror")().spec
    for call in (lambda: policy.meet(arm()), policy.warmup, policy.reset):
        call()
    frame = Frame(state={"arm": np.array([3.0, 4.0])})
    made = policy.infer(frame, ChunkRequest(0))
    assert made.rows.tolist() == [[3.0, 4.0]] and made.meta["calls"] == ["meet two joints", "warmup", "reset"]
    other = policy.session()
    other.meet(arm())
    assert other.infer(frame, ChunkRequest(0)).meta["calls"] == ["session", "meet two joints"]
    assert policy.infer(frame, ChunkRequest(0)).meta["calls"] == made.meta["calls"]
    other.close()
    assert policy.infer(frame, ChunkRequest(0)).meta["pid"] == policy.host.pid


def test_a_stand_in_has_no_more_than_its_policy(workers: Workers) -> None:
    policy = workers.hosted(recipe("WithoutSpec"))
    assert policy.spec is None
    assert not {"meet", "reset", "session", "warmup"} & set(dir(policy))
    actions = policy.infer(Frame(state={"arm": np.array([1.0, 2.0])}), ChunkRequest(3))
    assert [item.commands["arm"].value.tolist() for item in actions] == [[4.0, 5.0]] * 2


def test_an_inference_that_hangs_is_given_up_and_the_process_replaced(workers: Workers, tmp_path: Path) -> None:
    pipes = Pipes(str(tmp_path))
    workers.made.append(pipes)
    policy = workers.hosted(Recipe.of(hang), timeout_s=0.2)
    with pytest.raises(PolicyTimedOut, match=r"did not answer within 0\.2 s"):
        policy.infer(pipes.frame, ChunkRequest(0))
    pipes.let_go()
    assert policy.host.ready(PATIENCE_S)
    assert policy.infer(pipes.frame, ChunkRequest(2)).rows[0, 0] == 2


def test_a_program_that_ends_does_not_wait_long_for_an_inference(workers: Workers, tmp_path: Path) -> None:
    pipes = Pipes(str(tmp_path))
    workers.made.append(pipes)
    policy = workers.hosted(Recipe.of(hang), end_s=PATIENCE_S)
    worker = ProcessWorker(policy)
    worker.submit(pipes.frame, ChunkRequest(0))
    assert pipes.has_begun()
    worker.close()
    policy.close()  # in this order, as a session does
    assert policy.host._keeper._end_s == BUSY_END_S


def test_what_the_policy_raises_is_raised_with_its_traceback(workers: Workers) -> None:
    policy = workers.hosted(recipe("write_to_picture"))
    with pytest.raises(PolicyFailed, match="ValueError: assignment destination is read-only") as failed:
        policy.infer(Frame({"eye": np.zeros((2, 2, 3), dtype=np.uint8)}), ChunkRequest(0))
    assert "elsewhere.py" in failed.value.__notes__[0]


# Where it runs ------------------------------------------------------------------------------------------------


def test_cores_niceness_and_pools_are_as_they_were_asked_for(workers: Workers) -> None:
    core = min(os.sched_getaffinity(0))
    meta = chunk(ask(workers.of("where", cpus=(core,), nice=3, threads=2))).meta
    assert (meta["cpus"], meta["nice"], meta["threads"]) == ([core], os.nice(0) + 3, 2)
    assert meta["all"] == [[core]] * len(meta["all"])


def test_a_process_that_is_started_again_keeps_off_the_core_that_was_taken_from_it(workers: Workers) -> None:
    core = min(os.sched_getaffinity(0))
    worker = workers.of("where")
    (keeper,) = [thread for thread in threading.enumerate() if thread.name == "chunkwise-keeper"]
    assert keeper.native_id is not None
    os.sched_setaffinity(keeper.native_id, {core})  # as real time does
    os.kill(worker.pid, signal.SIGKILL)
    ask(worker)
    assert worker.ready(PATIENCE_S)
    assert chunk(ask(worker, 1)).meta["cpus"] == [core]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_sigterm_are_for_the_program(workers: Workers, number: int) -> None:
    worker = workers.of("sys_exit")
    os.kill(worker.pid, number)
    assert ask(worker).error == "SystemExit: 3"


@pytest.mark.parametrize(
    ("options", "text"),
    [({"slots": 2}, "slots"), ({"threads": 0}, "threads"), ({"nice": 40}, "nice"), ({"cpus": (4096,)}, "cpus")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        place(recipe("Mirror"), functools.partial(ProcessWorker, **options))
