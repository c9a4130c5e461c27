"""Networks written down in YAML, their weights, and every mistake in them by name.  Imports torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from chunkwise.contract import ChunkRequest
from chunkwise.policies.igris import (
    COMPONENT_REGISTRY,
    POLICY_REGISTRY,
    Igris,
    MissingFile,
    PolicyFileError,
    build_policy,
)
from chunkwise.policies.igris.components import build_component
from chunkwise.policies.igris.normalisation import Normalisation
from chunkwise.processing.statistics import read_openpi

torch.set_num_threads(1)

pytestmark = pytest.mark.slow  # torch alone takes seconds

GRAPH: dict[str, Any] = {
    "schema_version": 1,
    "params": {"state": 4, "width": "${env:int:NOT_THERE_AT_ALL,8}"},
    "model": {
        "graph": {
            "inputs": ["proprio", "bias"],
            "modules": {
                "encoder": {
                    "_type_": "nn.Linear",
                    "in_features": "${params.state}",
                    "out_features": "${params.width}",
                },
                "head": {"_type_": "Linear", "_args_": ["${params.width}", 6], "_kwargs_": {"bias": False}},
            },
            "nodes": [
                {"name": "hidden", "call": "module:encoder", "args": ["$proprio"]},
                {"name": "active", "call": "op:relu", "args": ["$hidden"]},
                {"name": "flat", "call": "module:head", "kwargs": {"input": "$active"}},
                {"name": "moved", "call": "op:add", "args": ["$flat", "$bias"]},
                {"name": "both", "call": "op:cat", "args": [["$moved", "$moved"]], "kwargs": {"dim": 0}},
                {"name": "chunk", "call": "op:reshape", "args": ["$both", [-1, 3, 2]]},
            ],
            "outputs": ["chunk"],
            "return": "single",
        }
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GRAPH with one value changed, or removed where it is `...`."""
    tree = copy.deepcopy(GRAPH)
    *parents, last = path.split(".")
    inner: Any = tree
    for parent in parents:
        inner = inner[int(parent)] if parent.isdecimal() else inner[parent]
    key: Any = int(last) if last.isdecimal() else last
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return tree


def part(tmp_path: Path, tree: dict[str, Any]) -> Any:
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump(tree))
    return build_component("net", path).part


def test_a_graph_computes_what_it_says(tmp_path: Path) -> None:
    net = part(tmp_path, GRAPH)
    assert sorted(net.state_dict()) == [
        "graph_modules.encoder.bias",
        "graph_modules.encoder.weight",
        "graph_modules.head.weight",
    ]
    proprio, bias = torch.randn(1, 4), torch.randn(6)
    modules = net.graph_modules
    flat = modules["head"](torch.relu(modules["encoder"](proprio))) + bias
    whole = torch.cat([flat, flat]).reshape(-1, 3, 2)
    assert torch.equal(net(proprio, bias), whole) and torch.equal(net(bias=bias, proprio=proprio), whole)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((1, 2, 3), {}), ((1,), {"proprio": 1}), ((1,), {}), ((1,), {"bais": 1})]
)
def test_a_graph_is_given_its_inputs_each_once(tmp_path: Path, args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError, match="the graph takes proprio, bias"):
        part(tmp_path, GRAPH)(*args, **kwargs)


def test_outputs_come_as_a_tuple_or_by_name(tmp_path: Path) -> None:
    graph = {
        "inputs": ["x"],
        "nodes": [
            {"name": "halves", "call": "op:stack", "args": [["$x", "$x"]]},
            {"name": "first", "call": "op:getitem", "args": ["$halves", 0]},
            {"name": "hot", "call": "op:gelu", "args": ["$first"]},
        ],
        "outputs": ["first", "hot"],
        "return": "tuple",
    }
    x = torch.arange(3.0)
    first, hot = part(tmp_path, {"schema_version": 1, "model": {"graph": graph}})(x)
    assert torch.equal(first, x) and torch.equal(hot, torch.nn.functional.gelu(x))
    graph |= {"outputs": {"a": "$first"}, "return": "dict"}
    assert list(part(tmp_path, {"schema_version": 1, "model": {"graph": graph}})(x)) == ["a"]


def test_layers_one_after_the_other_and_types_within_types(tmp_path: Path) -> None:
    layer = {"_type_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 2, "dim_feedforward": 8}
    layers = [{"_type_": "Linear", "in_features": 2, "out_features": 4}]
    layers += [
        {"_type_": "TransformerEncoder", "num_layers": 2, "enable_nested_tensor": False, "encoder_layer": layer}
    ]
    net = part(tmp_path, {"schema_version": 1, "model": {"sequential": {"layers": layers}}})
    assert net(torch.randn(1, 5, 2)).shape == (1, 5, 4) and "0.weight" in net.state_dict()


MODULES, NODES = "model.graph.modules", "model.graph.nodes"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema_version", ..., "needs schema_version: 1, has None"),
        ("schema_version", 2, "needs schema_version: 1, has 2"),
        ("model.grahp", {}, "model: unknown key 'grahp'.*did you mean 'graph'"),
        ("model.sequential", {}, "must have either sequential or graph"),
        ("model", {"sequential": {"layers": []}}, "layers must be a list of layers"),
        ("model.graph.input", [], "unknown key 'input'.*did you mean 'inputs'"),
        ("model.graph.inputs", ["a", "a"], "inputs must be a list of names, each once"),
        ("model.graph.nodes", {}, "nodes must be a list of calls"),
        ("model.graph.outputs", ["chnuk"], r"no value 'chnuk' \(did you mean 'chunk'\?\)"),
        ("model.graph.return", "list", "return must be one of single, tuple, dict"),
        ("model.graph.outputs", ["chunk", "flat"], "return: single wants one output"),
        (f"{MODULES}.head", {"_type_": "Linaer"}, r"no type 'Linaer' \(did you mean 'Linear'\?\)"),
        (f"{MODULES}.head", {"_type_": "functional"}, "no type 'functional'"),
        (f"{MODULES}.head", {"_type_": "Module"}, "no type 'Module'"),
        (f"{MODULES}.head", {"_type_": 3}, "_type_ must be a name, got 3"),
        (f"{MODULES}.head", {"in_features": 3}, "must be a mapping with a _type_"),
        (f"{MODULES}.head", "Linear", "must be a mapping with a _type_"),
        (
            f"{MODULES}.encoder.in_feature",
            3,
            r"encoder: unknown key 'in_feature' \(did you mean 'in_features'\?\)",
        ),
        (f"{MODULES}.encoder.out_features", ..., "encoder: Linear: .*missing 1 required"),
        (f"{MODULES}.encoder.in_features", "four", "encoder: Linear: "),
        (f"{MODULES}.encoder._merge_", {}, "unknown key '_merge_'"),
        (f"{MODULES}.encoder._args_", 4, "_args_ must be a list"),
        (f"{MODULES}.keys", {"_type_": "ReLU"}, "GraphModel: .*keys"),
        (
            f"{MODULES}.head",
            {"_target_": "os.getcwd"},
            r"_target_ 'os.getcwd' needs settings: \{allow_target: true\}",
        ),
        (f"{NODES}.0.name", "proprio", "name must be a new name, got 'proprio'"),
        (f"{NODES}.0.argz", [], "unknown key 'argz'.*did you mean 'args'"),
        (f"{NODES}.0.args", "$proprio", "args must be a list"),
        (f"{NODES}.0.args", ["$active"], r"\$active is not known here; there are: proprio, bias"),
        (f"{NODES}.0.kwargs", {"x": ["$propiro"]}, r"\$propiro is not known here \(did you mean 'proprio'\?\)"),
        (f"{NODES}.0.call", "module:encodr", "got 'module:encodr' .*did you mean 'encoder'"),
        (f"{NODES}.1.call", "op:system", "call must be module:NAME or op:NAME, got 'op:system'.*there are: add"),
        (f"{NODES}.1.call", "relu", "call must be module:NAME or op:NAME, got 'relu'"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, path: str, value: Any, said: str) -> None:
    with pytest.raises(PolicyFileError, match=rf"component 'net' .*{said}"):
        part(tmp_path, changed(path, value))


def test_a_target_is_called_where_the_file_allows_it(tmp_path: Path) -> None:
    tree = changed(f"{MODULES}.head", {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 6})
    tree["settings"] = {"allow_target": True, "allowed_import_prefixes": ["torch.nn"]}
    assert part(tmp_path, tree)(torch.randn(1, 4), 0).shape == (2, 3, 2)
    tree["settings"]["allowed_import_prefixes"] = ["json"]
    with pytest.raises(PolicyFileError, match=r"'torch.nn.Linear' is not within allowed_import_prefixes: json"):
        part(tmp_path, tree)


class Reach:
    """Answers what its network does: 50 rows of 16."""

    def __init__(self, components: Any, path: str = "") -> None:
        self.model = components["main"]
        if path:
            self.model.load_state_dict(torch.load(path, weights_only=True))
        self.grads: list[bool] = []

    def predict(self, input_data: Any, data_normalization_interface: Any) -> Any:
        self.grads.append(torch.is_grad_enabled())
        return self.model(torch.from_numpy(input_data["proprio"])).reshape(1, 50, 16).to(torch.bfloat16)

    def guided_inference(
        self, input_data: Any, data_normalization_interface: Any, executed: int, rows: int
    ) -> Any:
        return torch.from_numpy(input_data["prev_action"])

    def warmup(self) -> None: ...

    def freeze_all_model_params(self) -> None:
        self.model.requires_grad_(False)


@pytest.fixture
def network(folder: Any) -> Any:
    """A policy of one linear layer without weights, and its folder."""
    POLICY_REGISTRY.add("reach", Reach)
    layer = {"_type_": "nn.Linear", "in_features": 16, "out_features": 800}
    tree = {"schema_version": 1, "model": {"sequential": {"layers": [layer]}}}
    folder.write("net.yaml", yaml.safe_dump(tree))
    folder.yaml = folder.write(
        "reach.yaml",
        "model: {component_config_paths: {main: net.yaml}}\npolicy: {type: reach}\ncheckpoint_path: w",
    )
    (folder.path / "w").mkdir()
    return folder


def weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "0.weight": torch.randn(800, 16, generator=generator) / 100,
        "0.bias": torch.randn(800, generator=generator) / 100,
    }


def save(folder: Any, value: Any, name: str = "main.pt") -> Path:
    path: Path = folder.path / "w" / name
    if name.endswith(".pt"):
        torch.save(value, path)
    else:
        from safetensors.torch import save_file

        save_file(value, str(path))
    return path


@pytest.mark.parametrize("name", ["main.pt", "main.safetensors"])
def test_weights_are_loaded_frozen_and_run_without_gradients(network: Any, name: str) -> None:
    save(network, weights(), name)
    policy = Igris(config=network.yaml)
    policy.meet(network.robot())
    frame = network.frame()
    rows = policy.infer(frame, ChunkRequest(0)).rows
    state = np.concatenate([frame.state[part.name] for part in network.robot().components]).astype(np.float32)
    expected = (weights()["0.weight"] @ torch.from_numpy(state) + weights()["0.bias"]).reshape(50, 16)
    np.testing.assert_allclose(rows, expected, atol=1e-3)  # bfloat16 holds three digits
    assert policy.policy.grads == [False] and not policy.policy.model.training
    assert not any(parameter.requires_grad for parameter in policy.policy.model.parameters())
    plan = np.full((20, 16), 0.5)
    assert (policy.infer(frame, ChunkRequest(30, prefix=plan, inference_delay=3)).rows == 0.5).all()


class _Runs:
    def __reduce__(self) -> Any:
        return print, ("weights ran",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"0.weight": torch.zeros(800, 16)}, r'main.pt: .*Missing key\(s\) in state_dict: "0.bias"'),
        ({**weights(), "more": torch.zeros(1)}, r'Unexpected key\(s\) in state_dict: "more"'),
        ({**weights(), "0.bias": torch.zeros(7)}, "size mismatch for 0.bias"),
        ([1, 2], "main.pt holds list, not weights by name"),
        (_Runs(), "main.pt holds no weights that are safe to load"),
    ],
)
def test_weights_that_do_not_fit_are_refused(network: Any, value: Any, said: str, capsys: Any) -> None:
    save(network, value)
    with pytest.raises(PolicyFileError, match=said):
        build_policy(network.yaml)
    assert not capsys.readouterr().out, "nothing in a file is run"


@pytest.mark.parametrize("name", ["main.pt", "main.safetensors"])
def test_a_damaged_file_is_refused(network: Any, name: str) -> None:
    path = save(network, weights(), name)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PolicyFileError, match=f"{name} holds no weights that are safe to load"):
        build_policy(network.yaml)


def test_missing_weights_are_an_error_by_name(network: Any) -> None:
    with pytest.raises(
        MissingFile, match=r"component 'main': no weights: neither .*w/main.pt nor .*main.safetensors"
    ):
        build_policy(network.yaml)


def test_a_component_without_weights_cannot_be_given_a_checkpoint(network: Any) -> None:
    COMPONENT_REGISTRY.add("bare", object)
    network.write("bare.yaml", "params: {}")
    text = network.yaml.read_text().replace("main: net.yaml", "main: bare.yaml")
    network.write("reach.yaml", text)
    save(network, weights())
    with pytest.raises(PolicyFileError, match="is object, which has no load_state_dict"):
        build_policy(network.yaml)


def test_random_weights_are_never_an_accident(network: Any) -> None:
    text = network.yaml.read_text().replace("\ncheckpoint_path: w", "")
    network.write("reach.yaml", text)
    with pytest.raises(PolicyFileError, match=r"nothing loads weights into 2 tensors, as main.0.weight"):
        build_policy(network.yaml)
    policy: Any = Igris(config=network.yaml, untrained=True).policy
    assert not policy.model[0].bias.is_inference(), "a network that is made under inference_mode cannot be changed"
    path = save(network, weights())
    network.write("reach.yaml", text.replace("type: reach", f"type: reach, params: {{path: {path}}}"))
    policy = build_policy(network.yaml)
    assert torch.equal(policy.model[0].bias, weights()["0.bias"]), "the policy may load them itself"


def test_a_component_may_name_the_folder_of_its_weights(network: Any) -> None:
    save(network, weights())
    net = (network.path / "net.yaml").read_text()
    network.write("net.yaml", net + "params: {ckpt_dir: w}\n")
    with pytest.raises(PolicyFileError, match="weights are named twice"):
        build_policy(network.yaml)
    network.write("reach.yaml", network.yaml.read_text().replace("\ncheckpoint_path: w", ""))
    policy: Any = build_policy(network.yaml)
    assert torch.equal(policy.model[0].bias, weights()["0.bias"])


def test_statistics_take_tensors_too() -> None:
    text = '{"norm_stats": {"state": {"mean": [1, 2], "std": [2, 4]}, "actions": {"mean": [1, 2], "std": [2, 4]}}}'
    found = Normalisation(read_openpi(text).renamed({"state": "observation.state", "actions": "action"}))
    rows = torch.tensor([[3.0, 6.0]])
    torch.testing.assert_close(found.normalize_action(rows), torch.ones(1, 2))
    torch.testing.assert_close(found.denormalize_action(torch.ones(1, 2)), rows)
    made = found.normalize_state({"proprio": rows, "head": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)})
    torch.testing.assert_close(made["head"], torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(made["proprio"], torch.ones(1, 2))
