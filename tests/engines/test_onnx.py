"""The ONNX engine's refusals; that it computes rightly is shown with the demo policy's training."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._devices import DeviceError

pytest.importorskip("onnxruntime")


@pytest.fixture
def engine():
    return plugins.load("engines", "onnx")()


def test_a_device_that_is_not_there_is_refused_with_those_that_are(engine):
    with pytest.raises(DeviceError, match=r"onnxruntime has no device 'cuda' here; there are: cpu"):
        engine.load("any.onnx", "cuda")


def test_running_without_a_model_is_refused(engine):
    engine.close()
    with pytest.raises(RuntimeError, match="no model"):
        engine.run({})


def test_what_is_no_model_is_refused_by_name(engine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InterfaceValidationError, match=r"model\.onnx is no model that onnxruntime can run"):
        engine.load(str(tmp_path / "model.onnx"))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InterfaceValidationError, match=r"it reads \.onnx and directories"):
        engine.load(str(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("inputs", {"name": "observation.stat"}, "input 'observation.stat' is float32 .* and not there"),
        ("inputs", {"shape": [1, 1 << 40]}, "input 'observation.state' is"),
        ("outputs", {"shape": [1, 30, 2]}, r"output 'action' is float32 \[1, 30, 2\] by the one"),
    ],
)
def test_a_manifest_that_says_something_else_than_its_network_is_refused(engine, tmp_path, key, change, message):
    tiny = Path(__file__).parents[1] / "policies" / "tiny_checkpoint.py"
    plugins.load("policies", f"{tiny}:write")(tmp_path / "tiny", {"observation.state": (3,)}, 2)
    manifest = tmp_path / "tiny" / "chunkwise.json"
    engine.load(str(tmp_path / "tiny"))
    tree = json.loads(manifest.read_text())
    tree[key][0] |= change
    manifest.write_text(json.dumps(tree))
    with pytest.raises(InterfaceValidationError, match=message):
        engine.load(str(tmp_path / "tiny"))


class FakeSession:
    """What onnxruntime does where CUDA is compiled in and its libraries are missing: it uses the processor."""

    def __init__(self, path, options, providers):
        self.asked = providers

    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_a_card_whose_libraries_do_not_load_is_refused_and_not_replaced(engine, tmp_path, monkeypatch):
    fake = SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda key, value: None),
        InferenceSession=FakeSession,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    (tmp_path / "model.onnx").write_bytes(b"")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=f"cannot use '{device}': CUDAExecutionProvider does not load"):
            engine.load(str(tmp_path / "model.onnx"), device)
