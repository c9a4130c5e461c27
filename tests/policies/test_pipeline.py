"""The three pure pieces, each alone and all together, and the adapter that is made of any of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.policies._checkpoint import open_checkpoint
from chunkwise.policies.pipeline import (
    InferenceCoordinator,
    PureInferenceEngine,
    TensorPostprocessor,
    TensorPreprocessor,
)
from chunkwise.processing.lerobot import Feature
from chunkwise.processing.steps import Rename

TINY = Path(__file__).with_name("tiny_checkpoint.py")
write = plugins.load("policies", f"{TINY}:write")
write_network = plugins.load("policies", f"{TINY}:write_network")
STATE, FRONT, TOKENS = "observation.state", "observation.images.front", "observation.language.tokens"
INPUTS = {STATE: (6,), FRONT: (3, 8, 12)}


class FakeEngine:
    """Answers nothing but zeros, and keeps what it was given."""

    def __init__(self, inputs: Mapping[str, TensorSpec], shape: tuple[int | None, ...] = (1, 4, 6)) -> None:
        self.inputs, self.outputs = dict(inputs), {"action": TensorSpec(shape, "float32")}
        self.given: dict[str, Any] = {}
        self.answer = np.zeros([size or 1 for size in shape], np.float32)

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        self.given = dict(tensors)
        return {"action": self.answer}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write(tmp_path_factory.mktemp("tiny"), INPUTS, 6, rows=4)


@pytest.fixture(scope="module")
def coordinator(tiny: Any) -> InferenceCoordinator:
    return InferenceCoordinator(tiny.folder)


def seen(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {STATE: rng.normal(0.4, 0.3, 6), FRONT: rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)}


def test_the_whole_is_the_arithmetic_of_its_statistics_and_its_network(tiny: Any, coordinator: Any) -> None:
    observation = seen()
    picture = observation[FRONT].transpose(2, 0, 1) / 255
    wanted = tiny.actions(tiny.normalised(STATE, observation[STATE]), tiny.normalised(FRONT, picture))
    result = coordinator(observation)
    np.testing.assert_allclose(result.action, wanted, atol=1e-6)
    assert result.action.dtype == np.float32
    assert (result.chunk_size, result.policy_type, result.backend_type) == (4, "act", "onnx")
    stages = (result.preprocess_latency_ms, result.inference_latency_ms, result.postprocess_latency_ms)
    assert min(stages) >= 0
    assert result.total_latency_ms == pytest.approx(sum(stages))


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_and_its_pieces_run_apart_are_the_same_to_the_last_bit(
    tiny: Any, coordinator: Any, seed: int
) -> None:
    pre, engine, post = (
        TensorPreprocessor(tiny.folder),
        PureInferenceEngine(tiny.folder),
        TensorPostprocessor(tiny.folder),
    )
    whole = coordinator(seen(seed)).action
    assert np.array_equal(post(engine(pre(seen(seed))).action), whole)
    stages = coordinator.postprocess_only(coordinator.infer_only(coordinator.preprocess_only(seen(seed))).action)
    assert np.array_equal(stages, whole)


def test_observations_are_left_as_they_are(coordinator: Any) -> None:
    observation, before = seen(), seen()
    coordinator(observation)
    assert all(np.array_equal(observation[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({STATE: None}, r"lacks observation\.state;"),
        ({FRONT: None}, r"lacks observation\.images\.front;"),
        ({"observation.stat": np.zeros(6)}, r"observation\.stat'.*did you mean 'observation\.state'"),
        ({STATE: np.zeros(7)}, r"observation\.state.*7"),
        ({STATE: np.zeros((6, 1))}, r"observation\.state"),
        ({STATE: np.full(6, np.nan)}, r"observation\.state"),
        ({STATE: np.full(6, np.inf)}, r"observation\.state"),
        ({STATE: ["a"] * 6}, r"observation\.state"),
        ({FRONT: np.zeros((12, 8, 3), np.uint8)}, r"observation\.images\.front"),
        ({FRONT: np.zeros((8, 12), np.uint8)}, r"observation\.images\.front"),
        ({FRONT: np.full((8, 12, 3), 255.0)}, r"observation\.images\.front"),
    ],
)
def test_what_the_policy_does_not_read_is_refused_by_name(
    coordinator: Any, change: dict[str, Any], message: str
) -> None:
    observation = {name: value for name, value in {**seen(), **change}.items() if value is not None}
    with pytest.raises(InterfaceValidationError, match=message):
        coordinator(observation)


def test_pictures_are_scaled_once(tiny: Any) -> None:
    pre = TensorPreprocessor(preprocessor=lambda batch: batch, inputs={FRONT: Feature("VISUAL", (3, 8, 12))})
    made = pre({FRONT: np.full((8, 12, 3), 51, np.uint8)})[FRONT]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, np.full((3, 8, 12), 0.2), atol=1e-7)


def test_tokens_and_masks_keep_their_type() -> None:
    def tokenised(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            **batch,
            TOKENS: np.array([[5, 7]]),
            "observation.language.attention_mask": np.array([[True, False]]),
        }

    pre = TensorPreprocessor(preprocessor=tokenised, inputs={STATE: Feature("STATE", (6,))})
    fake = FakeEngine({})
    PureInferenceEngine(engine=fake)(pre({STATE: np.zeros(6)}))
    assert fake.given[TOKENS].dtype == np.int64
    assert fake.given["observation.language.attention_mask"].dtype == np.bool_


def test_the_engine_gets_what_it_declares_and_refuses_the_rest(tiny: Any) -> None:
    """A state that has gone into the tokens is left out; a name that nobody knows is the engine's to refuse."""
    fake = FakeEngine({FRONT: TensorSpec((1, 3, 8, 12), "float32")})
    engine = PureInferenceEngine(tiny.folder, engine=fake)
    engine({FRONT: np.zeros((1, 3, 8, 12)), STATE: np.zeros((1, 6)), "observation.stat": np.zeros(1)})
    assert set(fake.given) == {FRONT, "observation.stat"}
    with pytest.raises(InterfaceValidationError, match=r"unknown input 'observation\.stat'.*observation\.state"):
        PureInferenceEngine(tiny.folder)(
            {**TensorPreprocessor(tiny.folder)(seen()), "observation.stat": np.zeros(1)}
        )


@pytest.mark.parametrize("shape", [(2, 4, 6), (4,), (1, 1, 4, 6)])
def test_an_answer_that_is_no_chunk_is_refused(shape: tuple[int, ...]) -> None:
    fake = FakeEngine({})
    fake.answer = np.zeros(shape, np.float32)
    with pytest.raises(InterfaceValidationError, match=r"one chunk \(1, rows, dim\)"):
        PureInferenceEngine(engine=fake)({})


def test_one_action_is_a_chunk_of_one_row() -> None:
    result = PureInferenceEngine(engine=FakeEngine({}, (1, 6)))({})
    assert result.action.shape == (1, 6)
    assert result.chunk_size == 1


def test_limits_are_applied_and_counted(tiny: Any) -> None:
    free = InferenceCoordinator(tiny.folder)(seen()).action
    high = float(np.median(free))
    post = TensorPostprocessor(tiny.folder, clamp_limits={"action": (-10.0, high)})
    limited = InferenceCoordinator(tiny.folder, postprocessor=post)
    np.testing.assert_array_equal(limited(seen()).action, np.minimum(free, np.float32(high)))
    assert post.clamped == np.sum(free > np.float32(high)) > 0
    limited(seen())
    assert post.clamped == 2 * np.sum(free > np.float32(high))
    whole = InferenceCoordinator(tiny.folder, clamp_limits={"action": (-10.0, high)})
    np.testing.assert_array_equal(whole(seen()).action, limited(seen()).action)


def test_limits_of_something_else_are_refused(tiny: Any) -> None:
    with pytest.raises(InterfaceValidationError, match=r"'actions' \(did you mean 'action'"):
        TensorPostprocessor(tiny.folder, clamp_limits={"actions": (0.0, 1.0)})


def test_pieces_that_are_made_of_nothing() -> None:
    with pytest.raises(ValueError, match="policy_path"):
        TensorPreprocessor()
    with pytest.raises(ValueError, match="policy_path"):
        PureInferenceEngine()
    with pytest.raises(ValueError, match="policy_path"):
        TensorPostprocessor()
    with pytest.raises(ValueError, match="policy_path"):
        InferenceCoordinator()


def test_a_history_is_stacked_the_newest_last_and_its_oldest_repeated(tmp_path: Path) -> None:
    tiny = write(tmp_path, {STATE: (2,)}, 2, rows=3, kind="diffusion", n_obs_steps=3)
    pre = TensorPreprocessor(tmp_path)
    past = [{STATE: np.array([number, 0.0])} for number in (1.0, 2.0, 3.0)]
    stacked = pre(past)[STATE]
    assert stacked.shape == (1, 3, 2)
    np.testing.assert_allclose(stacked[0], tiny.normalised(STATE, np.array([[1, 0], [2, 0], [3, 0]])), rtol=1e-6)
    begun = pre(past[1:])[STATE]
    np.testing.assert_array_equal(begun[0, 0], begun[0, 1])
    np.testing.assert_array_equal(pre(past[0])[STATE], pre(past[:1])[STATE])
    wanted = tiny.actions(tiny.normalised(STATE, np.array([[1, 0], [2, 0], [3, 0]])))
    np.testing.assert_allclose(InferenceCoordinator(tmp_path)(past).action, wanted, atol=1e-6)
    with pytest.raises(InterfaceValidationError, match="reads 1 to 3 observations at once, got 4"):
        pre([*past, past[0]])
    with pytest.raises(InterfaceValidationError, match="reads 1 to 3 observations at once, got 0"):
        pre([])


def test_inputs_go_by_their_names_before_a_renaming(tiny: Any, tmp_path: Path) -> None:
    write(tmp_path, INPUTS, 6, rows=4)
    path = tmp_path / "policy_preprocessor.json"
    tree = json.loads(path.read_text())
    tree["steps"][0]["config"]["rename_map"] = {"observation.images.top": FRONT}
    path.write_text(json.dumps(tree))
    pre = TensorPreprocessor(tmp_path)
    assert set(pre.inputs) == {STATE, "observation.images.top"}
    assert isinstance(open_checkpoint(tmp_path).processors().pre.steps[0], Rename)
    observation = seen()
    renamed = {STATE: observation[STATE], "observation.images.top": observation[FRONT]}
    plain = TensorPreprocessor(tiny.folder)(observation)
    assert all(np.array_equal(value, plain[name]) for name, value in pre(renamed).items())


def test_a_network_that_resizes_takes_pictures_of_any_size(tmp_path: Path) -> None:
    write(tmp_path, INPUTS, 6, kind="smolvla")
    pre = TensorPreprocessor(tmp_path)
    made = pre({STATE: np.zeros(6), FRONT: np.zeros((5, 7, 3), np.uint8), "task": "stack"})
    assert made[FRONT].shape == (1, 3, 5, 7)
    assert "task" not in made


WITHOUT = """
import sys
for name in ("torch", "torchvision", "lerobot", "transformers", "onnxruntime", "openvino", "safetensors"):
    sys.modules[name] = None
import numpy as np
from chunkwise.policies.pipeline import TensorPostprocessor, TensorPreprocessor
folder = sys.argv[1]
made = TensorPreprocessor(folder)({
    "observation.state": np.zeros(6), "observation.images.front": np.zeros((8, 12, 3), np.uint8)
})
print(*[made[name].shape for name in made], TensorPostprocessor(folder)(np.zeros((4, 6))).shape, sep=";")
"""


@pytest.mark.parametrize("manifest", [True, False], ids=["exported", "checkpoint"])
def test_pre_and_post_need_neither_torch_nor_lerobot_nor_the_weights(tmp_path: Path, manifest: bool) -> None:
    write(tmp_path, INPUTS, 6)
    (tmp_path / "model.onnx").unlink()
    if not manifest:
        (tmp_path / "chunkwise.json").unlink()
    made = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout == "(1, 6);(1, 3, 8, 12);(4, 6)\n"


def test_the_adapter_runs_a_network_of_ones_own_behind_the_processors(tiny: Any, tmp_path: Path) -> None:
    model = tmp_path / "own.onnx"
    sizes = {name: (1, *shape) for name, shape in INPUTS.items()}
    weights = np.random.default_rng(3).normal(0, 0.2, (6 + 3 * 8 * 12, 7 * 6)).astype(np.float32)
    write_network(model, sizes, weights, (1, 7, 6))
    options = {"state": ("arm",), "actions": ("arm:6",)}
    policy = plugins.load("policies", "pipeline")(processors=str(tiny.folder), model=str(model), **options)
    observation = seen()
    frame = Frame({"front": observation[FRONT]}, {"arm": observation[STATE]})
    rows = policy.infer(frame, ChunkRequest(0)).rows
    like = type(tiny)(tiny.folder, weights, tiny.statistics, 7)
    picture = observation[FRONT].transpose(2, 0, 1) / 255
    wanted = like.actions(tiny.normalised(STATE, observation[STATE]), tiny.normalised(FRONT, picture))
    np.testing.assert_allclose(rows, wanted, atol=1e-6)
    assert policy.spec.action_horizon == 7
    policy.close()


def test_a_network_for_other_actions_is_refused(tiny: Any, tmp_path: Path) -> None:
    model = tmp_path / "own.onnx"
    sizes = {name: (1, *shape) for name, shape in INPUTS.items()}
    write_network(model, sizes, np.zeros((6 + 3 * 8 * 12, 7 * 5), np.float32), (1, 7, 5))
    with pytest.raises(InterfaceValidationError, match=r"have 5 numbers.*have 6"):
        plugins.load("policies", "pipeline")(processors=str(tiny.folder), model=str(model))
