"""Flow policies: from a robot's frame and running plan to rows, in torch and exported, and without torch."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chunkwise.chunking.weights import prefix_weights
from chunkwise.cli import main
from chunkwise.contract import BindingError, ChunkRequest, Frame, InterfaceValidationError
from chunkwise.plugins import load
from chunkwise.policies._tensor_policy import _taken_back
from chunkwise.processing.pipeline import Pipeline
from chunkwise.processing.statistics import Statistics
from chunkwise.processing.steps import Feature, Normalise

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from chunkwise.policies._checkpoint import open_checkpoint  # noqa: E402
from chunkwise.policies._flow_sampling import GuidedFlow  # noqa: E402
from chunkwise.policies._flow_velocity import velocity_of  # noqa: E402

pytestmark = pytest.mark.slow

FIELDS = Path(__file__).with_name("tiny_flow.py")
TINY = Path(__file__).with_name("tiny_checkpoint.py")
STATE = "observation.state"
H, A = 8, 3
FORMATS = ("onnx", "openvino", "torch")
MADE = [
    *(("Velocity", to) for to in FORMATS),
    *(("RowVelocity", to) for to in ("onnx", "openvino")),
    ("plain", "onnx"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory of LeRobot's files alone, and the statistics in it."""
    folder = tmp_path_factory.mktemp("flow") / "mine"
    tiny = load("policies", f"{TINY}:write")(folder, {STATE: (A,)}, A, rows=H, kind="flow")
    (folder / "chunkwise.json").unlink()
    (folder / "model.onnx").unlink()
    return folder, tiny.statistics


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """Fields in the formats that they are tested in."""
    folder, _ = made
    out = tmp_path_factory.mktemp("exported")
    for field, to in MADE:
        words = ["--policy", "flow", "--policy.path", folder, "--policy.field", f"{FIELDS}:{field}", "--to", to]
        assert main([*map(str, ["export", *words, "--out", out / f"{field}-{to}"])]) == 0
    return out


def flow(path, **options):
    options = {"state": ("arm",), "actions": ("arm:3",), "device": "cpu", **options}
    return load("policies", "flow")(path=str(path), **options)


def frame(place=(0.3, 0.4, 0.5)):
    return Frame({}, {"arm": np.array(place)})


def request(prefix, delay=2, schedule="exp", step=5):
    weights = prefix_weights(delay, len(prefix), schedule)
    return ChunkRequest(step, inference_delay=delay, prefix=prefix, prefix_weights=weights)


def test_the_plan_is_brought_to_the_network_and_the_answer_back(made):
    folder, statistics = made
    policy = flow(folder, field=f"{FIELDS}:Velocity", seed=4)
    assert policy.spec.supports_prefix
    assert policy.spec.action_horizon == H
    prefix = np.random.default_rng(0).normal(0.4, 0.3, (5, A))
    rows = policy.infer(frame(), request(prefix)).rows

    mean, std = (statistics["action"][name].astype(float) for name in ("mean", "std"))
    seen, spread = (statistics[STATE][name].astype(float) for name in ("mean", "std"))
    state = ((frame().state["arm"] - seen) / (spread + 1e-8)).astype(np.float32)[None]
    noise = np.random.default_rng((4, 5)).standard_normal((1, H, A), dtype=np.float32)
    made = GuidedFlow(velocity_of(open_checkpoint(folder), f"{FIELDS}:Velocity", device="cpu"))
    plan = ((prefix - mean) / (std + 1e-8)).astype(np.float32)[None]
    chunk = made.sample({STATE: state}, plan, inference_delay=2, execution_horizon=H - 5, noise=noise)
    np.testing.assert_allclose(rows, chunk[0] * std + mean, atol=1e-5)
    policy.close()
    policy.close()


def test_noise_is_of_the_step_and_the_seed(made):
    folder, _ = made
    policies = [flow(folder, field=f"{FIELDS}:plain", seed=seed) for seed in (0, 0, 1)]
    one, again, other = (policy.infer(frame(), ChunkRequest(3)).rows for policy in policies)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2
    assert np.abs(one - policies[0].infer(frame(), ChunkRequest(4)).rows).max() > 1e-2


@pytest.mark.parametrize("guidance", ["vjp", "identity", "trained_prefix"])
def test_a_guided_chunk_is_closer_to_the_plan(made, guidance):
    folder, _ = made
    field = "RowVelocity" if guidance == "trained_prefix" else "Velocity"
    policy = flow(folder, field=f"{FIELDS}:{field}", guidance=guidance)
    prefix = policy.infer(frame(), ChunkRequest(0)).rows[2:]
    alone = policy.infer(frame(), ChunkRequest(5)).rows
    guided = policy.infer(frame(), request(prefix)).rows
    assert np.abs(guided[:2] - prefix[:2]).max() < 0.5 * np.abs(alone[:2] - prefix[:2]).max()
    if guidance == "trained_prefix":
        np.testing.assert_allclose(guided[:2], prefix[:2], atol=1e-6)


def test_relative_actions_keep_the_plan_where_it_is(made):
    """The state moves between two chunks; rows that are given come back where they were."""
    folder, _ = made
    policy = flow(folder, field=f"{FIELDS}:RowVelocity", guidance="trained_prefix", relative=("arm",))
    first = policy.infer(frame((0.3, 0.4, 0.5)), ChunkRequest(0)).rows
    second = policy.infer(frame((0.9, -0.2, 0.1)), request(first[3:], delay=4, step=3)).rows
    np.testing.assert_allclose(second[:4], first[3:7], atol=1e-6)


def test_relative_actions_count_from_where_the_robot_is(made):
    folder, _ = made
    place = np.array([0.9, -0.2, 0.1])
    absolute, relative = (
        flow(folder, field=f"{FIELDS}:Velocity", relative=components) for components in ((), ("arm",))
    )
    np.testing.assert_allclose(
        relative.infer(frame(place), ChunkRequest(0)).rows,
        absolute.infer(frame(place), ChunkRequest(0)).rows + place,
        atol=1e-6,
    )


@pytest.mark.parametrize("relative", [(), ("arm",)])
def test_a_column_that_never_moved_in_training_pulls_at_no_other(tmp_path, relative):
    """Its deviation is 0, so a millimetre beside it would be a hundred thousand to the network."""
    folder = tmp_path / "still"
    load("policies", f"{TINY}:write")(folder, {STATE: (A,)}, A, rows=H, kind="flow", spread=[0.3, 0.3, 0.0])
    (folder / "chunkwise.json").unlink()
    policy = flow(folder, field=f"{FIELDS}:Velocity", relative=relative)
    prefix = policy.infer(frame(), ChunkRequest(0)).rows[3:]
    kept = policy.infer(frame(), request(prefix, step=3)).rows
    beside = policy.infer(frame(), request(prefix + np.array([0, 0, 1e-3]), step=3)).rows
    np.testing.assert_allclose(beside, kept, atol=1e-6)
    moved = policy.infer(frame((0.3, 0.4, 0.51)), request(prefix, step=3)).rows
    assert np.abs(moved - kept).max() < 0.05


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES"])
def test_such_a_column_is_to_the_network_what_it_was_in_training(mode):
    given = {"mean": [0.4, 0.0], "std": [0.0, 0.5], "min": [0.4, -1.0], "max": [0.4, 1.0]}
    given |= {"q01": given["min"], "q99": given["max"]}
    statistics = Statistics({"action": {name: np.float32(value) for name, value in given.items()}})
    post = Pipeline([Normalise({"action": Feature("ACTION", (2,))}, {"ACTION": mode}, statistics, backwards=True)])
    taken = _taken_back(post, SimpleNamespace(action_dim=2, folder=Path()))
    rows = taken(np.array([[0.4, 0.25], [0.5, 0.25], [-3.0, 0.25]]))
    np.testing.assert_array_equal(rows[:, 0], np.zeros(3) if mode == "MEAN_STD" else -np.ones(3))
    np.testing.assert_allclose(rows[:, 1], 0.5 if mode == "MEAN_STD" else 0.25, atol=1e-7)


@pytest.mark.parametrize(
    "relative, message", [(("arn",), "no action is for 'arn'.*did you mean 'arm'"), (("arm", "hand"), "'hand'")]
)
def test_what_actions_are_relative_to_must_be_there(made, relative, message):
    with pytest.raises(BindingError, match=message):
        flow(made[0], field=f"{FIELDS}:plain", relative=relative)


@pytest.mark.parametrize("field, to", MADE)
def test_an_exported_flow_answers_as_torch_does(made, exported, field, to):
    folder, _ = made
    guidances = ["vjp", "identity"] + ["trained_prefix"] * (field == "RowVelocity")
    prefix = np.random.default_rng(0).normal(0.4, 0.3, (6, A))
    for guidance in guidances:
        original = flow(folder, field=f"{FIELDS}:{field}", guidance=guidance)
        without = flow(exported / f"{field}-{to}", guidance=guidance)
        assert without.coordinator.backend_type == to
        for asked in (ChunkRequest(0), request(prefix), request(prefix, 6), request(prefix, 0, "linear")):
            pair = [policy.infer(frame(), asked).rows for policy in (original, without)]
            np.testing.assert_allclose(*pair, atol=1e-5, rtol=0)
        without.warmup()
        without.close()


def test_the_exported_product_is_the_true_one(made, exported):
    """Against an autodiff of the field in float64, not only against our own pull in torch."""
    fields = load("policies", f"{FIELDS}:Velocity")().double()
    rng = np.random.default_rng(2)
    x, target = rng.standard_normal((2, 1, H, A))
    weights, state, tau = rng.random((1, H)), rng.standard_normal((1, A)), 0.4
    at = torch.tensor(x, requires_grad=True)
    v = fields(at, torch.tensor([[tau]], dtype=torch.float64), fields.encode({STATE: torch.tensor(state)}))
    e = (torch.tensor(target) - (at + (1 - tau) * v)).detach() * torch.tensor(weights)[..., None]
    wanted = [v.detach(), e, torch.autograd.grad((v * e).sum(), at)[0]]
    for to in FORMATS:
        velocity = velocity_of(open_checkpoint(exported / f"Velocity-{to}"), "", device="cpu")
        single = [array.astype(np.float32) for array in (x, target, weights, state)]
        field = velocity.condition({STATE: single[3]})
        for ours, theirs in zip(field.pull(single[0], tau, single[1], single[2]), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)
        np.testing.assert_allclose(field.velocity(single[0], tau), wanted[0].numpy(), atol=1e-5, rtol=0)
        velocity.close()


TORCH_FREE = """
import sys
for blocked in ("torch", "torchvision", "lerobot", "transformers", "onnx", "onnxscript", "safetensors"):
    sys.modules[blocked] = None
import numpy as np
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.plugins import load
folder, answer = sys.argv[1:]
policy = load("policies", "flow")(path=folder, state=("arm",), actions=("arm:3",), device="cpu")
policy.warmup()
prefix = np.random.default_rng(0).normal(0.4, 0.3, (6, 3))
weights = np.array([1, 1, 0.6, 0.3, 0.1, 0.05])
asked = ChunkRequest(5, inference_delay=2, prefix=prefix, prefix_weights=weights)
np.save(answer, policy.infer(Frame({}, {"arm": np.array([0.3, 0.4, 0.5])}), asked).rows)
"""


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_exact_guidance_needs_no_torch(made, exported, tmp_path, to):
    answer = tmp_path / "answer.npy"
    words = [sys.executable, "-W", "error", "-c", TORCH_FREE, exported / f"Velocity-{to}", answer]
    subprocess.run([*map(str, words)], check=True)
    prefix = np.random.default_rng(0).normal(0.4, 0.3, (6, A))
    weights = np.array([1, 1, 0.6, 0.3, 0.1, 0.05])
    asked = ChunkRequest(5, inference_delay=2, prefix=prefix, prefix_weights=weights)
    original = flow(made[0], field=f"{FIELDS}:Velocity").infer(frame(), asked).rows
    np.testing.assert_allclose(np.load(answer), original, atol=1e-5, rtol=0)


def test_a_network_without_its_product_can_be_guided_without_it(exported, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    for path in (exported / "Velocity-onnx").iterdir():
        if path.name != "pull.onnx":
            (folder / path.name).write_bytes(path.read_bytes())
    tree = json.loads((folder / "chunkwise.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"lacks 'pull.onnx'"):
        flow(folder)
    del tree["sha256"]["pull.onnx"]
    (folder / "chunkwise.json").write_text(json.dumps(tree))
    with pytest.raises(InterfaceValidationError, match="vector-Jacobian product"):
        flow(folder)
    flow(folder, guidance="identity").infer(frame(), request(np.zeros((5, A))))


def test_networks_that_are_none_of_a_flow_are_refused(exported, tmp_path):
    folder = tmp_path / "swapped"
    folder.mkdir()
    for path in (exported / "Velocity-onnx").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "velocity.onnx").write_bytes((folder / "encode.onnx").read_bytes())
    with pytest.raises(InterfaceValidationError, match="is not the file that was exported"):
        flow(folder)
    tree = json.loads((folder / "chunkwise.json").read_text())
    tree["sha256"]["velocity.onnx"] = tree["sha256"]["encode.onnx"]
    (folder / "chunkwise.json").write_text(json.dumps(tree))
    with pytest.raises(InterfaceValidationError, match="'velocity' must take x, t and answer velocity"):
        flow(folder)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "field must be module:name"),
        ({"field": "nonsense"}, "field must be module:name"),
        ({"field": f"{FIELDS}:__doc__"}, "must be called with x, t and the observation"),
        ({"field": f"{FIELDS}:plain", "guidance": "trained_prefix"}, "flow time for each row"),
        ({"field": f"{FIELDS}:plain", "beta": 11.0}, r"beta must be within 0 and 2 \* steps"),
        ({"field": f"{FIELDS}:plain", "steps": 0}, "steps must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(made, options, message):
    with pytest.raises(ValueError, match=message):
        flow(made[0], **options)


def test_the_config_says_how_long_a_chunk_is(made, tmp_path):
    folder = tmp_path / "unsized"
    folder.mkdir()
    for path in made[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "chunk_size": 0}))
    with pytest.raises(InterfaceValidationError, match="chunk_size must be 1 to"):
        flow(folder, field=f"{FIELDS}:plain")


def test_an_exported_flow_has_its_own_field(exported):
    with pytest.raises(InterfaceValidationError, match="has its own field"):
        flow(exported / "plain-onnx", field=f"{FIELDS}:plain")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--to", "onnx"], "--policy.path DIR and --policy.field"),
        (["--to", "aoti", "--policy.path", "{folder}", "--policy.field", f"{FIELDS}:plain"], "not to 'aoti'"),
    ],
)
def test_an_export_says_what_it_lacks(made, tmp_path, capsys, words, message):
    given = [word.format(folder=made[0]) for word in words]
    assert main(["export", "--policy", "flow", *given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
