"""The Ascend engine on a fake ACL that computes: order, shapes, types, and what is refused."""

import json
import sys
import threading

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._ascend import Card, OmModel
from chunkwise.engines._compiled import BackendError
from chunkwise.engines._devices import DeviceError
from chunkwise.plugins import MissingExtra
from chunkwise.testing import EngineConformance

STATE, FRONT, WRIST = "observation.state", "observation.images.front", "observation.images.wrist"


@pytest.fixture
def engine(vendors):
    made = plugins.load("engines", "ascend_om")()
    yield made
    made.close()


@pytest.fixture
def acl(vendors):
    import acl

    return acl


def test_the_network_answers_what_it_computes(engine, act, tensors, acl):
    made = act("ascend_om")
    engine.load(made.path)
    assert (engine.policy_type, engine.backend_type, engine.device) == ("act", "ascend_om", "ascend_om")
    assert list(engine.inputs) == [FRONT, STATE, WRIST]
    assert engine.outputs["action"].shape == (1, 10, 7)
    for seed in (0, 1):
        np.testing.assert_allclose(engine.run(tensors(seed))["action"], made.expected(tensors(seed)), atol=1e-5)
    before = acl.leaks()
    engine.run(tensors())
    assert acl.leaks() == before
    engine.close()
    assert not acl.leaks()
    assert engine.policy_type == ""


@pytest.mark.parametrize("path", ["config.json", "."])
def test_the_path_is_the_directory_or_its_configuration(engine, act, path):
    made = act("ascend_om")
    engine.load(str(made.folder / path))


@pytest.mark.parametrize("output", [(70,), (10, 7), (1, 10, 7), (1, 70)])
def test_an_answer_is_rows_of_actions_whatever_dimensions_it_has(engine, act, tensors, output):
    made = act("ascend_om", output=output)
    if output == (1, 70):
        with pytest.raises(BackendError, match=r"answered \(1, 70\), and an action has 7 numbers"):
            engine.load(made.path)
        return
    engine.load(made.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_an_answer_that_makes_no_rows_is_refused_when_it_is_loaded(engine, act):
    made = act("ascend_om", output_features={"action": {"type": "ACTION", "shape": [4]}})
    with pytest.raises(
        BackendError, match=r"unexpected ACT OM action tensor size=70, not divisible by action_dim=4"
    ):
        engine.load(made.path)


# The order of inputs -------------------------------------------------------------------------------------------


def test_inputs_go_by_their_names_where_the_network_has_them(engine, act, tensors):
    made = act("ascend_om", order=[STATE, WRIST, FRONT])
    engine.load(made.path)
    assert list(engine.inputs) == [STATE, WRIST, FRONT]
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_inputs_go_in_the_configurations_order_where_the_compiler_renamed_them(engine, act, tensors, acl):
    acl.hides_names = True
    made = act("ascend_om")
    engine.load(made.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


@pytest.mark.parametrize("key", ["compiled_runtime_input_order", "runtime_input_order", "input_order"])
def test_an_order_that_is_said_counts(engine, act, tensors, acl, key):
    acl.hides_names = True
    order = [WRIST, STATE, FRONT]  # two pictures of one size: nothing but the numbers can tell
    made = act("ascend_om", order=order, **{key: order})
    engine.load(made.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_the_first_order_that_is_not_empty_counts(engine, act, tensors, acl):
    acl.hides_names = True
    order = [STATE, FRONT, WRIST]
    made = act(
        "ascend_om", order=order, compiled_runtime_input_order=[], runtime_input_order=order, input_order=["x"]
    )
    engine.load(made.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_an_order_that_cannot_be_is_refused_when_it_is_loaded(engine, act, acl):
    acl.hides_names = True
    made = act("ascend_om", order=[STATE, FRONT, WRIST])
    with pytest.raises(
        BackendError, match=r"the network takes 'input_0' float32 \[1, 7\].*compiled_runtime_input_order"
    ):
        engine.load(made.path)
    assert not acl.leaks()


def test_an_order_that_contradicts_the_networks_names_is_refused(engine, act, acl):
    made = act("ascend_om", compiled_runtime_input_order=[WRIST, STATE, FRONT])
    with pytest.raises(
        BackendError, match=r"the network's inputs are observation.images.front, .* another policy's"
    ):
        engine.load(made.path)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("x", "must be a list of input names, got 'x'"),
        ([3], r"must be a list of input names, got \[3\]"),
        ([STATE, "observation.images.wrst"], "names no input 'observation.images.wrst' .did you mean"),
        ([STATE, STATE], "names an input twice"),
    ],
)
def test_an_order_that_is_none_is_refused_by_name(engine, act, order, message):
    made = act("ascend_om", compiled_runtime_input_order=order)
    with pytest.raises(InterfaceValidationError, match=message):
        engine.load(made.path)


# Pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_of_another_size_is_stretched(engine, act, tensors):
    made = act("ascend_om")
    engine.load(made.path)
    given = tensors()
    flat = np.full((1, 3, 1, 1), 0.25, np.float32)
    answer = engine.run(given | {FRONT: flat})["action"]
    same = given | {FRONT: np.full((1, 3, 4, 6), 0.25, np.float32)}
    np.testing.assert_allclose(answer, made.expected(same), atol=1e-5)


# What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "Ascend-OM", "ascend_om:1"])
def test_devices_are_cards(engine, act, device):
    made = act("ascend_om")
    engine.load(made.path, device)
    assert engine.device == {"ascend_om:1": "ascend_om:1"}.get(device, "ascend_om")


@pytest.mark.parametrize("device", ["cpu", "cuda", "rknn", "ascend_om:x", "ascend_om:"])
def test_another_device_is_refused(engine, act, device):
    with pytest.raises(
        DeviceError, match=rf"ascend_om has no device '{device}'; there are: ascend_om, ascend_om:0"
    ):
        engine.load(act("ascend_om").path, device)


def test_a_card_that_is_not_there_is_an_error(engine, act, acl):
    with pytest.raises(BackendError, match=r"acl.rt.set_device\(7\) failed with 107001"):
        engine.load(act("ascend_om").path, "ascend_om:7")


@pytest.mark.parametrize(
    "function",
    ["init", "set_device", "create_context", "malloc", "load_from_file", "get_desc", "add_dataset_buffer"],
)
def test_a_call_that_fails_is_named_and_leaves_nothing_behind(engine, act, acl, function):
    acl.fails.add(function)
    with pytest.raises(BackendError, match=rf"{function}.* failed with 507899"):
        engine.load(act("ascend_om").path)
    assert not acl.leaks()


@pytest.mark.parametrize("function", ["execute", "memcpy", "set_context"])
def test_a_run_that_fails_is_a_runtime_error_and_the_next_one_may_go_better(engine, act, acl, tensors, function):
    made = act("ascend_om")
    engine.load(made.path)
    acl.fails.add(function)
    with pytest.raises(RuntimeError, match=rf"{function}.* failed with 507899"):
        engine.run(tensors())
    acl.fails.clear()
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


def test_what_is_no_network_is_refused(engine, act, acl):
    made = act("ascend_om")
    made.file.write_bytes(b"no network")
    with pytest.raises(BackendError, match=r"load_from_file\(.*policy.om\) failed with 100003"):
        engine.load(made.path)
    assert not acl.leaks()


def test_acl_was_initialised_by_somebody_else(engine, act, acl):
    assert acl.init() == 0
    engine.load(act("ascend_om").path)


def test_without_cann_it_says_what_is_missing(engine, act, monkeypatch):
    made = act("ascend_om")
    monkeypatch.setitem(sys.modules, "acl", None)
    with pytest.raises(MissingExtra, match="Ascend ACL runtime is required for OM inference"):
        engine.load(made.path)


def test_it_may_be_closed_by_another_thread(act, tensors, acl):
    engine = plugins.load("engines", "ascend_om")()
    engine.load(act("ascend_om").path)
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    assert not acl.leaks()


def test_types_that_compilers_narrow_are_taken_and_others_are_not(act, acl, tmp_path):
    import onnx

    helper, types = onnx.helper, onnx.TensorProto
    kinds = {"tokens": types.INT32, "mask": types.UINT8, "x": types.FLOAT16, "y": types.FLOAT}
    nodes = [helper.make_node("Cast", [name], [f"{name}_as_float"], to=types.FLOAT) for name in kinds]
    nodes.append(helper.make_node("Sum", [f"{name}_as_float" for name in kinds], ["sum"]))
    inputs = [helper.make_tensor_value_info(name, kind, (1, 3)) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info("sum", types.FLOAT, (1, 3))]
    graph = helper.make_graph(nodes, "sum", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.om"
    )
    card = Card(0)
    model = OmModel(card, tmp_path / "x.om")
    model.bind()
    given = [np.array([[4, 5, 6]]), np.array([[True, False, True]]), np.full((1, 3), 0.5, np.float32)]
    for place, array in enumerate([*given, np.full((1, 3), 0.25, np.float32)]):
        model.write(place, array)
    model.execute()
    np.testing.assert_array_equal(model.read(0), [[5.75, 5.75, 7.75]])
    for place, array in (
        (0, given[2]),
        (1, given[0]),
        (2, given[1]),
        (3, given[2].astype(np.float64)),
        (3, given[2][0]),
    ):
        with pytest.raises(BackendError, match=rf"as input {place}, and is given {array.dtype}"):
            model.write(place, array)
    model.close()
    card.close()


# The configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "Compiled backend ascend_om policy config must be a JSON object"),
        ("{", "is no JSON"),
        ("{}", "Compiled backend ascend_om policy config is missing required type metadata"),
        ({"type": 3}, "missing required type metadata"),
        ({"type": "diffusion"}, "Compiled backend ascend_om does not support policy type 'diffusion'"),
        ({"input_features": {}}, "compiled policy config must define non-empty input_features"),
        ({"input_features": {"x": 3}}, "input_features.x: type must be one of"),
        (
            {"input_features": {"observation.environment_state": {"type": "ENV", "shape": [3]}}},
            "compiled policy config does not expose supported state/image input features",
        ),
        (
            {
                "input_features": {
                    STATE: {"type": "STATE", "shape": [7]},
                    "observation.environment_state": {"type": "ENV", "shape": [3]},
                }
            },
            "nobody knows where among the network's inputs observation.environment_state stands",
        ),
        (
            {"input_features": {STATE: {"type": "STATE", "shape": [7, 1]}}},
            "the shape of observation.state must be one",
        ),
        ({"input_features": {FRONT: {"type": "VISUAL", "shape": [4, 6]}}}, "must be channels, height and width"),
        ({"output_features": {}}, "does not say how many numbers an action has"),
        ({"output_features": {}, "action_dim": "7"}, "does not say how many numbers an action has"),
    ],
)
def test_a_configuration_that_is_none_is_refused(engine, act, acl, text, message):
    made = act("ascend_om")
    if isinstance(text, dict):
        text = json.dumps(json.loads((made.folder / "config.json").read_text()) | text)
    (made.folder / "config.json").write_text(text)
    acl.hides_names = True
    with pytest.raises(InterfaceValidationError, match=message):
        engine.load(made.path)


def test_a_directory_without_a_configuration_is_none(engine, tmp_path):
    message = "Compiled backend ascend_om requires policy_path/config.json with policy type metadata"
    with pytest.raises(FileNotFoundError, match=message):
        engine.load(str(tmp_path))


def test_the_width_of_an_action_may_be_said_beside_the_features(engine, act, tensors):
    made = act("ascend_om", output_features={}, action_dim=7)
    engine.load(made.path)
    np.testing.assert_allclose(engine.run(tensors())["action"], made.expected(tensors()), atol=1e-5)


class TestAscendOm(EngineConformance):
    @pytest.fixture(autouse=True)
    def _policy(self, act):
        self.made = act("ascend_om")
        yield
        if "acl" in sys.modules:  # some checks of the kit let an engine go without closing it
            sys.modules["acl"].forget()

    def make_engine(self):
        return plugins.load("engines", "ascend_om")()

    def network(self):
        return self.made.path
