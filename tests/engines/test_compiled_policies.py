"""Compiled policies as policies: named by a device, run by the commands, without torch and without any weights."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.cli import main, serve
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._devices import COMPILED, DeviceError, choose, compiled_engine
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies._stages import PureInferenceEngine
from chunkwise.policies.pipeline import InferenceCoordinator

STATE, FRONT, WRIST = "observation.state", "observation.images.front", "observation.images.wrist"
ROBOT = ("--robot", "mock", "--robot.arms", "1", "--robot.dof", "6", "--robot.cameras", "front,wrist")


@pytest.fixture
def compiled(act, vendors):
    """A directory for each back end."""

    def write(backend):
        made = act(backend)
        if backend == "ascend_om_3403":
            with open(made.file, "wb") as file:
                np.savez(file, weights=made.tiny.weights, stride=8, dim=7)
            worker = made.folder / "worker"
            worker.write_text(f"#!{sys.executable}\n{(vendors / 'svp_worker.py').read_text()}")
            worker.chmod(0o755)
            tree = {"backend": backend, "artifacts": {"policy": "policy.om", "worker": "worker"}}
            (made.folder / "config.om.json").write_text(json.dumps(tree))
        assert not (made.folder / "model.safetensors").exists()
        assert json.loads((made.folder / "config.json").read_text())["device"] == "cuda"
        return made

    return write


def observation(seed=0):
    rng = np.random.default_rng(seed)
    return {
        STATE: rng.random(7),
        FRONT: rng.integers(0, 255, (4, 6, 3), dtype=np.uint8),
        WRIST: rng.integers(0, 255, (4, 6, 3), dtype=np.uint8),
    }


def actions(tiny, seen):
    """In float64: what the processors and the network make of an observation."""
    pictures = {name: seen[name].transpose(2, 0, 1) / 255 for name in (FRONT, WRIST)}
    given = [tiny.normalised(name, value) for name, value in {**pictures, STATE: seen[STATE]}.items()]
    return tiny.actions(given[0], given[2], given[1])


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("said", ["device", "engine", "auto"])
def test_a_compiled_policy_is_the_whole_policy(compiled, backend, said):
    made = compiled(backend)
    device = backend.upper().replace("_", "-") if said == "device" else "auto"
    coordinator = InferenceCoordinator(made.path, device, name=backend if said == "engine" else "")
    assert (coordinator.policy_type, coordinator.backend_type, coordinator.chunk_size) == ("act", backend, 10)
    result = coordinator(observation())
    np.testing.assert_allclose(result.action, actions(made.tiny, observation()), atol=1e-5)
    assert (result.policy_type, result.backend_type, result.chunk_size) == ("act", backend, 10)
    coordinator.close()


def test_the_policy_tells_which_engine_runs_it(compiled):
    policy = plugins.load("policies", "lerobot")(
        path=compiled("rknn").path, device="rknn", state=("arm", "gripper"), actions=("arm:6", "gripper:1"), seed=0
    )
    assert policy.spec.meta == {"policy_type": "act", "engine": "rknn"}
    assert policy.coordinator.backend_type == "rknn"
    policy.close()


def test_an_engine_that_is_handed_over_says_what_it_is(compiled):
    engine = plugins.load("engines", "ascend_om")()
    engine.load(compiled("ascend_om").path)
    network = PureInferenceEngine(engine=engine)
    assert (network.policy_type, network.backend_type) == ("act", "ascend_om")
    network.close()


# Which engine --------------------------------------------------------------------------------------------------


def test_lerobots_weights_come_before_what_was_compiled_of_them(compiled):
    for backend in COMPILED:
        made = compiled(backend)
        assert open_checkpoint(made.path).engine == backend
        (made.folder / "model.safetensors").write_bytes(b"")
        assert open_checkpoint(made.path).engine == "lerobot"
        (made.folder / "model.safetensors").unlink()
        made.file.unlink()
        (made.folder / "config.om.json").unlink(missing_ok=True)
        assert open_checkpoint(made.path).engine == "lerobot"


def test_opening_a_directory_runs_nothing_that_is_in_it(compiled):
    made = compiled("ascend_om")
    (made.folder / "mine.py").write_text("raise SystemExit('it ran')\n")
    manifest = {"backend": f"{made.folder}/mine.py:engine", "artifacts": {"policy": "policy.om"}}
    (made.folder / "config.om.json").write_text(json.dumps(manifest))
    with pytest.raises(InterfaceValidationError, match=r"is none of a compiled policy"):
        PureInferenceEngine(made.path)


def test_a_device_that_a_directory_has_nothing_for_is_refused(compiled):
    made = compiled("rknn")
    with pytest.raises(FileNotFoundError, match=r"ascend_om requires config\.om\.json"):
        PureInferenceEngine(made.path, "ascend_om")
    made = compiled("ascend_om")
    with pytest.raises(
        InterfaceValidationError, match="'ascend_om' does not match requested backend 'ascend_om_3403'"
    ):
        PureInferenceEngine(made.path, "ascend-om-3403")


def test_words_for_devices():
    assert [compiled_engine(word) for word in ("ascend_om", " RKNN:0_1 ", "Ascend-OM-3403", "ascend_om:1")] == [
        "ascend_om",
        "rknn",
        "ascend_om_3403",
        "ascend_om",
    ]
    assert [compiled_engine(word) for word in ("auto", "cpu", "cuda:1", "ascend", "")] == [""] * 5
    with pytest.raises(DeviceError, match="torch cannot use 'rknn', which runs what was compiled for it"):
        choose("rknn", ["cpu"], "torch")


def test_another_engine_cannot_use_such_a_device(compiled):
    with pytest.raises(DeviceError, match="onnxruntime cannot use 'rknn'"):
        PureInferenceEngine(compiled("rknn").path, "rknn", name="onnx")


# The commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", COMPILED)
def test_run_drives_a_robot_with_it(compiled, tmp_path, backend):
    made, report = compiled(backend), tmp_path / "report.json"
    words = ("--policy", made.path, "--device", backend, "--control-hz", "50", "--seconds", "0.2")
    assert main(["run", *ROBOT, *words, "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["setup"]["policy"] == {"name": made.path, "device": backend}
    assert not told["faults"]


def test_check_takes_a_device_too(compiled, capsys):
    made = compiled("rknn")
    main(["check", *ROBOT, "--policy", made.path, "--device", "rknn", "--control-hz", "50"])
    assert "most rows are beyond the limits" in capsys.readouterr().out  # so it was asked


class _Made(Exception):
    pass


def test_serve_gives_the_policy_its_device(compiled, monkeypatch):
    made = compiled("rknn")
    found = []

    def server(make, *args, **options):
        found.append(make())
        raise _Made

    monkeypatch.setattr(serve, "Server", server)
    words = ["--policy", made.path, "--device", "rknn", "--policy.state", "arm,gripper"]
    with pytest.raises(_Made):
        serve.main([*words, "--policy.actions", "arm:6,gripper:gripper_position:1"])
    assert found[0].coordinator.backend_type == "rknn"
    found[0].close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policy", "{path}", "--device", "rknn", "--policy.device", "cpu"), "are two; leave one out"),
        (("--policy", "{path}", "--device", "rkn"), "'rkn' is no device|lacks|has no"),
        (("--policy", "wave", "--device", "rknn"), "policy wave has no option 'device'"),
        (("--device", "rknn"), "--device needs --policy NAME"),
    ],
)
def test_a_device_that_cannot_be_is_refused_in_one_line(compiled, words, message, capsys):
    made = compiled("rknn")
    assert main(["run", *ROBOT, *(word.format(path=made.path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_the_flag_is_over_the_configuration(compiled, tmp_path, capsys):
    made = compiled("rknn")
    path = tmp_path / "run.yaml"
    path.write_text(f"policy: {{name: {made.path}, device: cpu}}\n")
    assert main(["run", "--config", str(path), "--device", "rknn", "--print-config"]) == 0
    assert "device: rknn" in capsys.readouterr().out


# What is imported ----------------------------------------------------------------------------------------------

LAZY = """
import sys
from chunkwise import plugins
for name in ("ascend_om", "ascend_om_3403", "rknn"):
    engine = plugins.load("engines", name)()
    try:
        engine.load("/no/such/policy")
    except FileNotFoundError:
        pass
    engine.close()
heavy = {"acl", "rknnlite", "torch", "onnxruntime", "lerobot"} & set(sys.modules)
assert not heavy, heavy
"""

BARE = """
import sys
for name in ("torch", "lerobot", "transformers", "safetensors"):
    sys.modules[name] = None
import numpy as np
from chunkwise.policies.pipeline import InferenceCoordinator
coordinator = InferenceCoordinator(sys.argv[1], sys.argv[2])
seen = {"observation.state": np.zeros(7)}
seen |= {f"observation.images.{name}": np.zeros((4, 6, 3), np.uint8) for name in ("front", "wrist")}
assert coordinator(seen).action.shape == (10, 7)
coordinator.close()
"""


def python(text, *words, path=""):
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", text, *words], capture_output=True, text=True, env=environment)


def test_no_vendors_module_is_imported_before_a_policy_of_its_kind_is_loaded(vendors):
    done = python(LAZY, path=str(vendors))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", COMPILED)
def test_neither_torch_nor_lerobot_is_needed(compiled, vendors, backend):
    done = python(BARE, compiled(backend).path, backend, path=str(vendors))
    assert done.returncode == 0, done.stderr
