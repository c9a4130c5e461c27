"""The RKNN engine on a fake RKNNLite that computes: order, layout, cores, which file, and what is refused."""

import sys

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._compiled import BackendError
from chunkwise.engines._devices import DeviceError
from chunkwise.plugins import MissingExtra
from chunkwise.testing import EngineConformance

STATE, FRONT, WRIST = "observation.state", "observation.images.front", "observation.images.wrist"


@pytest.fixture
def engine(vendors):
    made = plugins.load("engines", "rknn")()
    yield made
    made.close()


@pytest.fixture
def rknn(vendors):
    import rknnlite.api

    yield rknnlite.api
    assert all(one.released for one in rknnlite.api.made)


def test_the_network_answers_what_it_computes(rknn, engine, act, tensors):
    made = act("rknn")
    engine.load(made.path)
    assert (engine.policy_type, engine.backend_type, engine.device) == ("act", "rknn", "rknn")
    assert engine.outputs["action"].shape == (1, 10, 7)
    assert rknn.made[-1].core_mask == rknn.RKNNLite.NPU_CORE_AUTO
    for seed in (0, 1):
        np.testing.assert_allclose(engine.run(tensors(seed))["action"], made.expected(tensors(seed)), atol=1e-5)
    engine.close()
    assert rknn.made[-1].released


@pytest.mark.parametrize("output", [(1, 10, 7), (10, 7), (70,)])
def test_an_answer_is_rows_of_actions_whatever_dimensions_it_has(engine, rknn, act, tensors, output):
    made = act("rknn", output=output)
    for flat in (False, True):
        rknn.answers_flat = flat
        engine.load(made.path)
        np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)
    engine.close()


def test_a_compiler_that_moves_the_state_to_the_front_is_told(engine, rknn, act, tensors):
    rknn.compiled_order = order = [STATE, FRONT, WRIST]
    made = act("rknn")
    with pytest.raises(
        BackendError, match=r"another order than .*, which compiled_runtime_input_order in config.json"
    ):
        engine.load(made.path)
    again = act("rknn", name="again", compiled_runtime_input_order=order)
    engine.load(again.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)
    engine.close()


@pytest.mark.parametrize(
    ("device", "mask"),
    [("rknn:0", 1), ("RKNN:2", 4), ("rknn:0_1", 3), ("rknn:0-1-2", 7), ("rknn:all", 0xFFFF), ("auto", 0)],
)
def test_a_device_may_name_cores(engine, rknn, act, device, mask):
    engine.load(act("rknn").path, device)
    assert rknn.made[-1].core_mask == mask
    engine.close()


@pytest.mark.parametrize("device", ["cpu", "rknn:3", "ascend_om"])
def test_another_device_is_refused(engine, act, device):
    with pytest.raises(
        DeviceError, match=f"rknn has no device '{device}'; there are: rknn, rknn:0 to rknn:all, auto"
    ):
        engine.load(act("rknn").path, device)


# Which file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.rknn", "policy.rknn", "act_v3.rknn"])
def test_the_file_is_found_in_the_directory(engine, act, tensors, name):
    made = act("rknn")
    made.file.rename(made.folder / name)
    for path in (made.folder, made.folder / "config.json", made.folder / name):
        engine.load(str(path))
        np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_the_file_of_the_usual_name_comes_first(engine, act):
    made = act("rknn")
    for name in ("policy.rknn", "a.rknn"):
        (made.folder / name).write_bytes(b"no network")
    engine.load(made.path)


def test_several_files_are_no_choice_of_ours(engine, act):
    made = act("rknn")
    for name in ("a.rknn", "b.rknn"):
        (made.folder / name).write_bytes(b"")
    made.file.unlink()
    with pytest.raises(BackendError, match=r"several RKNN models, a.rknn, b.rknn; call one model.rknn"):
        engine.load(made.path)


def test_no_file_says_where_it_was_looked_for(engine, act):
    made = act("rknn")
    made.file.unlink()
    with pytest.raises(FileNotFoundError) as raised:
        engine.load(made.path)
    assert str(raised.value) == (
        f"RKNN model file not found under policy_path {made.folder}. Checked: {made.folder}/model.rknn, "
        f"{made.folder}/policy.rknn, {made.folder}/*.rknn"
    )


# What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["load_rknn", "init_runtime"])
def test_a_call_that_fails_is_named_and_leaves_nothing_behind(engine, rknn, act, method):
    rknn.fails[method] = -7
    with pytest.raises(BackendError, match=f"RKNN {method} failed with ret=-7"):
        engine.load(act("rknn").path)
    assert rknn.made[-1].released


@pytest.mark.parametrize("answer", [None, []])
def test_no_answer_is_an_error(engine, rknn, act, tensors, answer):
    made = act("rknn")
    engine.load(made.path)
    rknn.fails["inference"] = answer
    with pytest.raises(RuntimeError, match="RKNN inference returned no outputs"):
        engine.run(tensors())
    rknn.fails.clear()
    engine.run(tensors())
    engine.close()


def test_another_number_of_rows_than_before_is_an_error(engine, rknn, act, tensors):
    engine.load(act("rknn").path)
    rknn.fails["inference"] = [np.zeros(7, np.float32)]
    with pytest.raises(BackendError, match=r"answered \(1, 1, 7\), and when loaded \(1, 10, 7\)"):
        engine.run(tensors())
    engine.close()


def test_several_chunks_are_not_taken_for_one(engine, rknn, act, tensors):
    engine.load(act("rknn").path)
    rknn.fails["inference"] = [np.zeros((2, 5, 7), np.float32)]
    with pytest.raises(BackendError, match=r"answered \(2, 5, 7\), and .* one chunk"):
        engine.run(tensors())
    engine.close()


def test_an_answer_that_makes_no_rows_is_an_error(engine, rknn, act):
    made = act("rknn", output_features={"action": {"type": "ACTION", "shape": [4]}}, output=(70,))
    with pytest.raises(BackendError, match="size=70, not divisible by action_dim=4"):
        engine.load(made.path)


def test_pi05_does_not_run_there(engine, act):
    with pytest.raises(InterfaceValidationError, match="rknn does not support PI05 OM policy"):
        engine.load(act("rknn", type="pi05").path)


def test_without_rknnlite_it_says_what_is_missing(engine, act, monkeypatch):
    made = act("rknn")
    monkeypatch.setitem(sys.modules, "rknnlite", None)
    with pytest.raises(MissingExtra, match="rknnlite is not installed: it comes with Rockchip's rknn-toolkit2"):
        engine.load(made.path)


class TestRknn(EngineConformance):
    @pytest.fixture(autouse=True)
    def _policy(self, act):
        self.made = act("rknn")

    def make_engine(self):
        return plugins.load("engines", "rknn")()

    def network(self):
        return self.made.path
