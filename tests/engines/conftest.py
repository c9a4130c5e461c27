"""Vendors' runtimes, as fakes that compute real networks; and policies compiled for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chunkwise import plugins

VENDORS = Path(__file__).parent / "fake_vendors"
MODULES = ("acl", "rknnlite", "rknnlite.api")
TINY = Path(__file__).parents[1] / "policies" / "tiny_checkpoint.py"
STATE, FRONT, WRIST = "observation.state", "observation.images.front", "observation.images.wrist"
ACT = {FRONT: (3, 4, 6), STATE: (7,), WRIST: (3, 4, 6)}


@pytest.fixture
def vendors(monkeypatch):
    """Their modules can be imported, fresh; what a test leaves in the card's memory fails it."""
    monkeypatch.syspath_prepend(str(VENDORS))
    for name in MODULES:
        sys.modules.pop(name, None)
    yield VENDORS
    acl = sys.modules.get("acl")
    for name in MODULES:
        sys.modules.pop(name, None)
    assert acl is None or not acl.leaks()


@pytest.fixture
def act(tmp_path, vendors):
    """Writes an ACT for a back end: LeRobot's files, and a network of one matrix."""

    def write(backend, *, order=None, name="policy", output=None, **changes):
        pytest.importorskip("onnx")
        folder = tmp_path / name
        tiny = plugins.load("policies", f"{TINY}:write")(folder, ACT, 7)
        (folder / "chunkwise.json").unlink()
        (folder / "model.onnx").unlink()
        file = folder / ("model.rknn" if backend == "rknn" else "policy.om")
        sizes = {key: (1, *ACT[key]) for key in order or ACT}
        write_network = plugins.load("policies", f"{TINY}:write_network")
        write_network(file, sizes, tiny.weights, output or (1, tiny.rows, 7))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        if backend != "rknn":
            manifest = {"schema_version": 1, "backend": backend, "policy_type": "act", "execution": ["policy"]}
            (folder / "config.om.json").write_text(json.dumps(manifest | {"artifacts": {"policy": "policy.om"}}))

        def expected(tensors):
            known = np.concatenate([tensors[key].ravel() for key in sizes])
            return np.tanh(known @ tiny.weights).reshape(1, tiny.rows, 7)

        return SimpleNamespace(folder=folder, path=str(folder), expected=expected, tiny=tiny, file=file)

    return write


@pytest.fixture
def tensors():
    """Normalised inputs of that ACT."""

    def draw(seed=0):
        rng = np.random.default_rng(seed)
        return {name: rng.normal(size=(1, *shape)).astype(np.float32) for name, shape in ACT.items()}

    return draw
