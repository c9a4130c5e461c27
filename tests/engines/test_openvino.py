"""OpenVINO: the same numbers as onnxruntime, in float32 unless another type is asked for."""

import subprocess
import sys

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._comparison import largest_difference, random_inputs

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")


def loaded(name, path, **options):
    engine = plugins.load("engines", name)(**options)
    engine.load(str(path))
    return engine


@pytest.fixture
def networks():
    return plugins.load("policies", "demo").networks


@pytest.mark.parametrize("name", ["velocity", "pull"])
def test_the_demo_policys_networks_answer_as_on_onnxruntime(networks, name):
    """The gradient in `pull` uses square matrices transposed too, which OpenVINO left to itself mixes up."""
    ours, theirs = loaded("onnx", networks[name]), loaded("openvino", networks[name])
    assert theirs.inputs == ours.inputs
    assert theirs.outputs == ours.outputs
    frames = [random_inputs(ours.inputs, np.random.default_rng(seed)) for seed in range(5)]
    assert largest_difference(ours, theirs, frames) < 1e-4


def test_a_lower_precision_is_used_only_when_it_is_asked_for(networks):
    exact, lower = (
        loaded("openvino", networks["velocity"]),
        loaded("openvino", networks["velocity"], dtype="bfloat16"),
    )
    frames = [random_inputs(exact.inputs, np.random.default_rng(0))]
    assert lower.run(frames[0])["velocity"].dtype == np.float32
    assert largest_difference(exact, lower, frames) < 0.2


def test_weights_that_are_not_beside_their_network_are_missed(tmp_path):
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(FileNotFoundError, match=r"has no \.bin beside it"):
        loaded("openvino", tmp_path / "model.xml")


@pytest.mark.parametrize("text", ["<net/>", "", "no xml"])
def test_what_is_no_network_is_refused_by_name(tmp_path, text):
    (tmp_path / "model.xml").write_text(text)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InterfaceValidationError, match=r"model\.xml is no model that OpenVINO can run"):
        loaded("openvino", tmp_path / "model.xml")


SIGNALLED = """
import os, signal, sys
from chunkwise import plugins
engines = [plugins.load("engines", "openvino")(dtype=dtype) for dtype in ("bfloat16", "bfloat16")]
for engine in engines:
    engine.load(sys.argv[1])
    engine.warmup()
for engine in engines:
    engine.close()
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_a_signal_after_a_model_was_let_go_ends_nothing_but_what_it_should(networks):
    words = [sys.executable, "-c", SIGNALLED, str(networks["velocity"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
