"""What every engine does around a call."""

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._comparison import largest_difference, medians_s, random_inputs
from chunkwise.engines._network import Network, check

DECLARED = {
    "observation.state": TensorSpec((None, 3), "float32"),
    "tokens": TensorSpec((None, 4), "int64"),
    "noise": TensorSpec((1, 2), "float32", optional=True),
}
GIVEN = {"observation.state": np.zeros((2, 3), np.float32), "tokens": np.zeros((1, 4), np.int64)}


def test_what_is_declared_passes_with_and_without_what_is_optional():
    check(GIVEN, DECLARED)
    check({**GIVEN, "noise": np.zeros((1, 2), np.float32)}, DECLARED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.stat": np.zeros(3)}, "unknown input 'observation.stat' .did you mean 'observation.state'"),
        ({"tokens": np.zeros((1, 4), np.float32)}, "'tokens' must be int64, got float32"),
        ({"observation.state": np.zeros((1, 3))}, "'observation.state' must be float32, got float64"),
        ({"observation.state": [0.0, 0.0, 0.0]}, "'observation.state' must be a numpy array, got list"),
        ({"observation.state": np.zeros((1, 2), np.float32)}, r"the shape \(any, 3\), got \(1, 2\)"),
        ({"observation.state": np.zeros((0, 3), np.float32)}, r"the shape \(any, 3\), got \(0, 3\)"),
        ({"observation.state": np.zeros(3, np.float32)}, r"the shape \(any, 3\), got \(3,\)"),
        ({"noise": np.zeros((2, 2), np.float32)}, r"'noise' must have the shape \(1, 2\)"),
    ],
)
def test_what_differs_is_refused_by_name(change, message):
    with pytest.raises(InterfaceValidationError, match=message):
        check({**GIVEN, **change}, DECLARED)


def test_what_is_missing_is_named():
    with pytest.raises(InterfaceValidationError, match="'tokens' is missing"):
        check({"observation.state": GIVEN["observation.state"]}, DECLARED)


@pytest.mark.parametrize("name", plugins.names("engines"))
def test_options_that_cannot_be_are_refused(name):
    made = plugins.load("engines", name)
    with pytest.raises(InterfaceValidationError, match="threads must be at least 1, got 0"):
        made(threads=0)
    with pytest.raises(InterfaceValidationError, match="not in 'float8'"):
        made(dtype="float8")


@pytest.mark.parametrize("name", ["onnx", "aoti"])
def test_an_engine_that_computes_in_float32_alone_says_so(name):
    with pytest.raises(InterfaceValidationError, match="computes in float32, not in 'bfloat16'"):
        plugins.load("engines", name)(dtype="bfloat16")


def test_a_load_that_fails_leaves_nothing_half_open():
    class Failing(Network):
        released = 0

        def _open(self, path, device):
            self.inputs = DECLARED
            raise FileNotFoundError(path)

        def _release(self):
            self.released += 1

    engine = Failing()
    with pytest.raises(FileNotFoundError):
        engine.load("any")
    assert not engine.inputs
    assert engine.released
    with pytest.raises(RuntimeError, match="no model is loaded"):
        engine.run({})


class Plus:
    """An engine that adds a number."""

    def __init__(self, number):
        self.number, self.calls = number, 0

    def warmup(self):
        pass

    def run(self, tensors):
        self.calls += 1
        return {"action": tensors["observation.state"] + np.float32(self.number)}


def test_the_largest_difference_is_of_all_frames_and_a_nan_is_one():
    frames = [random_inputs(DECLARED, np.random.default_rng(seed)) for seed in range(3)]
    assert set(frames[0]) == {"observation.state", "tokens"}
    assert largest_difference(Plus(0), Plus(0), frames) == 0
    assert largest_difference(Plus(0), Plus(2), frames) == pytest.approx(2)
    assert np.isnan(largest_difference(Plus(0), Plus(np.nan), frames))


def test_every_round_asks_each_engine_once():
    engines = {"one": Plus(0), "other": Plus(1)}
    took = medians_s(engines, GIVEN, rounds=5)
    assert set(took) == {"one", "other"}
    assert [engine.calls for engine in engines.values()] == [5, 5]
