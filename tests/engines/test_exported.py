"""The directory that an export is: what its manifest says, and that its files are those that were made."""

import json

import pytest

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._exported import MANIFEST, MOST_BYTES, Exported, is_exported, network_file, read_exported

INPUTS = {"observation.state": TensorSpec((1, 3), "float32"), "tokens": TensorSpec((None, 4), "int64")}
OUTPUTS = {"action": TensorSpec((1, 5, 2), "float32")}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a network")
    (tmp_path / "config.json").write_text("{}")
    parity = {"random": {"max_difference": 1e-6, "frames": 16}}
    Exported(
        tmp_path, "onnx", "model.onnx", "act", INPUTS, OUTPUTS, made_with={"torch": "2"}, parity=parity
    ).write()
    return tmp_path


def test_what_is_written_is_read(folder):
    read = read_exported(folder)
    assert is_exported(folder)
    assert (read.engine, read.model, read.policy_type) == ("onnx", folder / "model.onnx", "act")
    assert (read.inputs, read.outputs) == (INPUTS, OUTPUTS)
    assert list(read.inputs) == list(INPUTS)
    assert read.parity["random"]["frames"] == 16
    assert set(read.sha256) == {"model.onnx", "config.json"}
    read.check()
    assert network_file(str(folder), "onnx", ()) == (folder / "model.onnx", read)


def test_a_file_that_changed_is_named(folder):
    (folder / "config.json").write_text("{ }")
    with pytest.raises(InterfaceValidationError, match=r"config\.json is not the file that was exported"):
        network_file(str(folder), "onnx", ())


def test_a_file_that_is_gone_is_named(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 'model\.onnx'"):
        read_exported(folder).check()


def test_another_engine_is_told_which_one_it_is_for(folder):
    with pytest.raises(
        InterfaceValidationError, match=r"exported for the engine 'onnx', not for 'openvino'.*--to"
    ):
        network_file(str(folder), "openvino", (".xml",))


def test_a_directory_without_a_manifest_is_named(tmp_path):
    assert not is_exported(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no chunkwise\.json.*chunkwise export"):
        read_exported(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2 is not 1"),
        ({"schema": "1"}, "schema '1' is not 1"),
        ({"format": "tensorrt"}, "format 'tensorrt' is none of onnx"),
        ({"format": ["onnx"]}, "format .* is none of onnx"),
        ({"file": 3}, "'file' must be a text"),
        ({"file": "other.onnx"}, "'other.onnx' is not among those that are hashed"),
        ({"inputz": []}, "unknown key 'inputz' .did you mean 'inputs'"),
        ({"sha256": []}, "'sha256' must be an object"),
        ({"sha256": {"../../etc/passwd": "0"}}, "passwd' is no name of a file"),
        ({"sha256": {"model.onnx": 0}}, "hash of 'model.onnx' must be a text"),
        ({"inputs": {}}, "'inputs' must be a list"),
        ({"inputs": []}, "'inputs' must have at least one item"),
        ({"inputs": [{"name": "a"}]}, "must have name, shape and dtype"),
        ({"inputs": [{"name": "a", "shape": [0], "dtype": "float32"}]}, "shape of 'a'"),
        ({"inputs": [{"name": "a", "shape": [True], "dtype": "float32"}]}, "shape of 'a'"),
        ({"inputs": [{"name": "a", "shape": "1", "dtype": "float32"}]}, "shape of 'a'"),
        ({"inputs": [{"name": "a", "shape": [1], "dtype": "object"}]}, "dtype of 'a' is unknown"),
        ({"inputs": [{"name": "a", "shape": [1], "dtype": "f4"}]}, "dtype of 'a' is unknown"),
        ({"outputs": [{"name": "a", "shape": [1], "dtype": "float32"}] * 2}, "no name twice"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_key(folder, change, message):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InterfaceValidationError, match=message):
        read_exported(folder)


@pytest.mark.parametrize("key", ["schema", "format", "file", "policy_type", "inputs", "outputs", "sha256"])
def test_a_key_that_is_missing_is_named(folder, key):
    path = folder / MANIFEST
    tree = json.loads(path.read_text())
    del tree[key]
    path.write_text(json.dumps(tree))
    with pytest.raises(InterfaceValidationError, match=f"'{key}' is missing"):
        read_exported(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "\x00", "[" * 100_000, "null"], ids=["empty", "list", "torn", "nul", "deep", "null"]
)
def test_what_is_no_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InterfaceValidationError, match=r"chunkwise\.json"):
        read_exported(folder)


def test_a_manifest_is_bounded(folder):
    (folder / MANIFEST).write_text(" " * (MOST_BYTES + 1))
    with pytest.raises(InterfaceValidationError, match="more than"):
        read_exported(folder)
