"""The SD3403 engine and a real worker program: its answers, and every way in which it can go wrong."""

import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._compiled import BackendError
from chunkwise.engines._devices import DeviceError
from chunkwise.engines._sd3403_frames import FrameError, WorkerFailed
from chunkwise.engines._sd3403_worker import Worker, WorkerDied, WorkerTimedOut
from chunkwise.testing import EngineConformance

pytestmark = pytest.mark.slow  # a process for every way to fail
STATE, TOP = "observation.state", "observation.images.top"
CONFIG = {
    "type": "act",
    "device": "cuda",
    "chunk_size": 100,
    "input_features": {
        STATE: {"type": "STATE", "shape": [4]},
        TOP: {"type": "VISUAL", "shape": [3, 4, 6]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
}
ROWS, DIM = 5, 6


def write(folder, program, *, stride=8, **changes):
    """A policy's directory with a worker; gives the network's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(0).normal(0, 0.3, (4 + 72, ROWS * DIM)).astype(np.float32)
    with open(folder / "policy.om", "wb") as file:
        np.savez(file, weights=weights, stride=stride, dim=DIM)
    worker = folder / "worker"
    worker.write_text(f"#!{sys.executable}\n{program.read_text()}")
    worker.chmod(worker.stat().st_mode | stat.S_IXUSR)
    manifest = {"backend": "ascend_om_3403", "artifacts": {"policy": "policy.om", "worker": "worker"}}
    (folder / "config.om.json").write_text(json.dumps(manifest | {"execution": ["policy", "worker"]}))
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return weights


@pytest.fixture
def folder(tmp_path, vendors):
    write(tmp_path / "policy", vendors / "svp_worker.py")
    return tmp_path / "policy"


@pytest.fixture
def engine():
    made = plugins.load("engines", "ascend_om_3403")()
    yield made
    made.close()


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    return {
        STATE: rng.normal(size=(1, 4)).astype(np.float32),
        TOP: rng.random((1, 3, 4, 6)).astype(np.float32),
    }


def expected(given, weights):
    flat = np.concatenate([array.ravel() for array in given.values()])
    return np.tanh(flat @ weights).reshape(1, ROWS, DIM)


def network(folder):
    return np.load(folder / "policy.om")["weights"]


def test_the_worker_answers_rows_without_what_they_are_filled_up_with(engine, folder):
    engine.load(str(folder))
    assert (engine.policy_type, engine.backend_type, engine.device) == ("act", "ascend_om_3403", "ascend_om_3403")
    assert engine.outputs["action"].shape == (1, ROWS, DIM)  # the worker's rows, not the configuration's
    for seed in (0, 1):
        answer = engine.run(tensors(seed))["action"]
        np.testing.assert_allclose(answer, expected(tensors(seed), network(folder)), atol=1e-6)
    engine.close()
    assert engine.policy_type == ""


def test_a_stride_of_the_configuration_counts_and_then_the_environments(engine, tmp_path, vendors, monkeypatch):
    monkeypatch.setenv("SVP_ACTION_STRIDE", "16")
    for stride, change in ((16, {}), (10, {"sd3403_action_stride": 10})):
        folder = tmp_path / str(stride)
        weights = write(folder, vendors / "svp_worker.py", stride=stride, **change)
        engine.load(str(folder))
        np.testing.assert_allclose(engine.run(tensors())["action"], expected(tensors(), weights), atol=1e-6)


@pytest.mark.parametrize(
    ("variable", "changes", "message"),
    [
        ("x", {}, "SVP_ACTION_STRIDE must be a whole number, got 'x'"),
        ("", {"sd3403_action_stride": 0}, "sd3403_action_stride must be a whole number above 0, got 0"),
        ("", {"sd3403_action_stride": "8"}, "sd3403_action_stride must be a whole number above 0, got '8'"),
        ("", {"sd3403_action_stride": 5}, "an action has 6 numbers, and rows are 5 apart"),
        ("", {"sd3403_action_stride": 7}, r"tensor size=40, not divisible by sd3403_action_stride=7"),
    ],
)
def test_a_stride_that_cannot_be_is_refused(engine, tmp_path, vendors, monkeypatch, variable, changes, message):
    monkeypatch.setenv("SVP_ACTION_STRIDE", variable)
    write(tmp_path / "policy", vendors / "svp_worker.py", **changes)
    with pytest.raises(InterfaceValidationError, match=message):
        engine.load(str(tmp_path / "policy"))


def test_pi05_does_not_run_there(engine, tmp_path, vendors):
    write(tmp_path / "policy", vendors / "svp_worker.py", type="pi05")
    with pytest.raises(InterfaceValidationError, match="ascend_om_3403 does not support PI05 OM policy"):
        engine.load(str(tmp_path / "policy"))


def test_options_that_cannot_be_are_refused():
    for option in ("timeout_s", "start_timeout_s"):
        for value in (0, -1, float("nan"), float("inf"), 1e7):
            with pytest.raises(InterfaceValidationError, match=f"{option} must be above 0"):
                plugins.load("engines", "ascend_om_3403")(**{option: value})


def test_the_device_is_this_one(engine, folder):
    with pytest.raises(
        DeviceError, match="ascend_om_3403 has no device 'ascend_om_3403:1'; there are: ascend_om_3403"
    ):
        engine.load(str(folder), "ascend_om_3403:1")


# What goes wrong -----------------------------------------------------------------------------------------------

SHORT_S, LONG_S = 0.3, 120.0
"""For what is meant to be late, and for what is not, on however slow a machine."""
LATE = ("hang", "trickle")
WRONG = {
    "die": (WorkerDied, r"worker exited unexpectedly \(returncode=3\)\nworker stderr tail:\n(.*\n)*out of memory"),
    "die halfway": (WorkerDied, r"worker exited unexpectedly \(returncode=4\)"),
    "close": (WorkerDied, "worker stream closed unexpectedly"),
    "garbage": (FrameError, "unexpected response header: no magic"),
    "wrong id": (FrameError, "mismatched response id: expected 2, got 3"),
    "version": (FrameError, "version=9"),
    "stray line inside": (FrameError, "the worker wrote more than its response"),
    "many outputs": (FrameError, "outputs, at most 32"),
    "long text": (FrameError, "bytes of error text, at most"),
    "huge": (FrameError, "4294967280 bytes, at most"),
    "disagree": (FrameError, "do not agree"),
    "overflow": (FrameError, "do not agree"),
    "type": (FrameError, "unsupported worker element type: 77"),
    "dimensions": (FrameError, "dimensions, at most 8"),
}
SAID = {
    "status": r"worker inference failed \(error_code=-3\): accelerator is busy",
    "silent status": r"worker inference failed \(error_code=-4\): unknown error",
    "no action": "worker response does not contain output index 2",
}


@pytest.fixture
def worker(folder):
    """A worker whose second request goes wrong in the way that a test names; the others do not."""
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=LONG_S, start_timeout_s=LONG_S)
    yield made
    made.close()
    assert not made.running


def arrays():
    return [*tensors().values()]


def rows(answer):
    return answer[:, :DIM][None]


def make_it_go_wrong(worker, folder, fault):
    (folder / "faults.json").write_text(json.dumps({"2": fault}))
    np.testing.assert_allclose(rows(worker.ask(arrays())), expected(tensors(), network(folder)), atol=1e-6)


def see_that_it_goes_on(worker, folder):
    np.testing.assert_allclose(rows(worker.ask(arrays())), expected(tensors(), network(folder)), atol=1e-6)


@pytest.mark.parametrize("fault", LATE)
def test_a_worker_that_is_late_is_ended_and_the_next_one_answers(worker, folder, fault):
    make_it_go_wrong(worker, folder, fault)
    worker._timeout_s = SHORT_S
    with pytest.raises(WorkerTimedOut, match=r"worker did not answer within 0\.3 s, and was ended"):
        worker.ask(arrays())
    assert not worker.running
    see_that_it_goes_on(worker, folder)


@pytest.mark.parametrize("fault", WRONG)
def test_a_worker_that_cannot_be_trusted_is_ended_and_the_next_one_answers(worker, folder, fault):
    make_it_go_wrong(worker, folder, fault)
    kind, message = WRONG[fault]
    with pytest.raises(kind, match=message):
        worker.ask(arrays())
    assert not worker.running
    see_that_it_goes_on(worker, folder)


@pytest.mark.parametrize("fault", SAID)
def test_a_worker_that_says_that_it_cannot_is_asked_again(worker, folder, fault):
    make_it_go_wrong(worker, folder, fault)
    process = worker._process
    with pytest.raises(WorkerFailed, match=SAID[fault]):
        worker.ask(arrays())
    assert worker._process is process and worker.running
    see_that_it_goes_on(worker, folder)
    assert worker._process is process


def test_a_stray_line_before_a_response_costs_nothing_but_a_warning(worker, folder, caplog):
    make_it_go_wrong(worker, folder, "stray line")
    process = worker._process
    see_that_it_goes_on(worker, folder)
    assert "wrote on stdout what is no response: b'loading 1PV 1P something" in caplog.text
    see_that_it_goes_on(worker, folder)
    assert worker._process is process


def test_a_deadline_is_the_clocks(folder):
    times = iter([0.0, 0.0])
    made = Worker(
        folder / "worker", folder / "policy.om", timeout_s=5, start_timeout_s=60, clock=lambda: next(times, 61.0)
    )
    with pytest.raises(WorkerTimedOut, match="within 60 s"):
        made.ask(arrays())
    made.close()


def test_a_program_that_cannot_be_run_is_an_error_of_its_own(folder):
    (folder / "worker").write_text("no program")
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=5, start_timeout_s=60)
    for _ in range(2):
        with pytest.raises(WorkerDied, match="worker cannot be run: "):
            made.ask(arrays())


def test_a_worker_that_does_not_leave_is_killed(folder, monkeypatch):
    monkeypatch.setattr("chunkwise.engines._sd3403_worker.LEAVE_S", 0.05)
    deaf = "import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', file=sys.stderr)\n"
    (folder / "worker").write_text(f"#!{sys.executable}\n{deaf}signal.pause()\n")
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=5, start_timeout_s=60)
    made._begin()
    process = made._process
    made.close()
    assert process.returncode is not None and process.returncode < 0
    made.close()


def test_a_worker_takes_the_programs_that_it_began_with_it(folder):
    """One is often a script that sets paths and begins the real one, which would hold the accelerator."""
    (folder / "worker").rename(folder / "real")
    (folder / "worker").write_text("#!/bin/sh\n./real\nexit $?\n")
    (folder / "worker").chmod(0o755)
    (folder / "faults.json").write_text(json.dumps({"2": "hang"}))
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=SHORT_S, start_timeout_s=LONG_S)
    made.ask(arrays())
    stderr = os.dup(made._process.stderr.fileno())  # at its end when nobody is left who could write
    with pytest.raises(WorkerTimedOut):
        made.ask(arrays())
    assert not made._reader.is_alive()
    while os.read(stderr, 4096):
        pass
    os.close(stderr)
    made.close()


def test_a_worker_that_cannot_even_be_killed_is_left_behind(worker, folder, monkeypatch, caplog):
    """A driver that hangs keeps its process; the call must not wait for it."""
    monkeypatch.setattr("chunkwise.engines._sd3403_worker.LEAVE_S", 0.01)
    make_it_go_wrong(worker, folder, "hang")
    worker._timeout_s = SHORT_S
    process = worker._process
    wait = process.wait

    def stuck(timeout=None):
        assert timeout is not None
        raise subprocess.TimeoutExpired("worker", timeout)

    monkeypatch.setattr(process, "wait", stuck)
    with pytest.raises(WorkerTimedOut):
        worker.ask(arrays())
    assert f"process {process.pid} does not end" in caplog.text
    wait()
    see_that_it_goes_on(worker, folder)


def test_a_link_is_as_good_as_a_copy(folder, tmp_path):
    """The worker stands where the link is, and is told the network by its own name, suffix and all."""
    store = tmp_path / "store"
    store.mkdir()
    program = "import os\nraise SystemExit(f\"{os.environ['SVP_MODEL_PATH']} {os.getcwd()}\")\n"
    for name in ("worker", "policy.om"):
        (folder / name).unlink()
        (folder / name).symlink_to(store / f"{name}-blob")
    (store / "policy.om-blob").write_bytes(b"")
    (store / "worker-blob").write_text(f"#!{sys.executable}\n{program}")
    (store / "worker-blob").chmod(0o755)
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=5, start_timeout_s=LONG_S)
    with pytest.raises(WorkerDied, match=f"{folder}/policy.om {folder}"):
        made.ask(arrays())


def test_an_engine_whose_worker_fails_answers_the_next_call(engine, folder):
    (folder / "faults.json").write_text(json.dumps({"3": "wrong id", "4": "die"}))
    engine.load(str(folder))  # which is request 1
    engine.run(tensors())
    for _ in range(2):
        with pytest.raises(BackendError):
            engine.run(tensors())
    np.testing.assert_allclose(engine.run(tensors())["action"], expected(tensors(), network(folder)), atol=1e-6)


def test_a_worker_that_fails_when_it_is_loaded_leaves_nothing_behind(engine, folder):
    (folder / "faults.json").write_text(json.dumps({"1": "die"}))
    with pytest.raises(WorkerDied):
        engine.load(str(folder))
    assert not engine.inputs and engine._worker is None
    with pytest.raises(RuntimeError, match="no model is loaded"):
        engine.run(tensors())


def test_a_worker_knows_its_network_and_where_it_stands(folder):
    program = "import os\nraise SystemExit(f\"{os.environ['SVP_MODEL_PATH']} {os.getcwd()}\")\n"
    (folder / "worker").write_text(f"#!{sys.executable}\n{program}")
    made = Worker(folder / "worker", folder / "policy.om", timeout_s=5, start_timeout_s=LONG_S)
    with pytest.raises(WorkerDied, match=f"{folder}/policy.om {folder}"):
        made.ask(arrays())
    assert os.environ.get("SVP_MODEL_PATH") is None


class TestAscendOm3403(EngineConformance):
    @pytest.fixture(autouse=True)
    def _policy(self, folder):
        self.folder = folder

    def make_engine(self):
        return plugins.load("engines", "ascend_om_3403")()

    def network(self):
        return str(self.folder)
