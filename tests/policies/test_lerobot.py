"""A policy's directory as a policy of a robot: what is whose, what is refused, and what a session remembers."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import (
    BindingError,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    connect,
    validate_policy_spec,
)
from chunkwise.policies import BoundPolicy
from chunkwise.policies._checkpoint import MOST_TEXT_BYTES, open_checkpoint, pretrained_tokenizer
from chunkwise.processing.errors import ProcessingError

TINY = Path(__file__).with_name("tiny_checkpoint.py")
write = plugins.load("policies", f"{TINY}:write")
Lerobot = plugins.load("policies", "lerobot")
Mock = plugins.load("robots", "mock")
STATE, ENVIRONMENT, FRONT = "observation.state", "observation.environment_state", "observation.images.front"
INPUTS = {STATE: (16,), FRONT: (3, 8, 12)}
COMPONENTS = ["right_arm", "right_gripper", "left_arm", "left_gripper"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write(tmp_path_factory.mktemp("tiny"), INPUTS, 16, rows=4)


@pytest.fixture
def policy(tiny: Any) -> Any:
    return Lerobot(path=str(tiny.folder))


def frame(seed: int = 0, **more: Any) -> Frame:
    rng = np.random.default_rng(seed)
    state = {name: rng.normal(0.4, 0.3, 7 if name.endswith("arm") else 1) for name in COMPONENTS}
    return Frame({"front": rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)}, state, **more)


def joints(seen: Frame) -> Any:
    return np.concatenate([seen.state[name] for name in COMPONENTS])


# What is whose ------------------------------------------------------------------------------------------------


def test_a_robot_tells_what_nobody_said(policy: Any, tiny: Any) -> None:
    assert policy.spec is None
    policy.meet(Mock(cameras=("front",)).spec)
    spec = policy.spec
    validate_policy_spec(spec)
    assert spec.required_image_keys == ["front"]
    assert spec.required_state_keys == COMPONENTS
    kinds = ["joint_position", "gripper_position"] * 2
    assert spec.outputs == [
        PolicyOutputSpec(name, kind, dim) for name, kind, dim in zip(COMPONENTS, kinds, (7, 1, 7, 1), strict=True)
    ]
    assert (spec.name, spec.action_horizon, spec.supports_prefix) == ("act", 4, False)
    assert (spec.images["front"].height, spec.images["front"].width) == (8, 12)
    assert spec.normalisation == open_checkpoint(tiny.folder).processors().digest != ""
    assert not spec.required_task_keys


def test_a_chunk_is_the_networks_in_the_robots_units(policy: Any, tiny: Any) -> None:
    robot = Mock(cameras=("front",)).spec
    policy.meet(robot)
    seen, before = frame(), frame()
    chunk = BoundPolicy(policy, connect(robot, policy.spec))(seen, ChunkRequest(7))
    picture = seen.images["front"].transpose(2, 0, 1) / 255
    wanted = tiny.actions(tiny.normalised(STATE, joints(seen)), tiny.normalised(FRONT, picture))
    np.testing.assert_allclose(chunk.rows, wanted, atol=1e-6)
    assert chunk.first_step is None
    assert set(chunk.meta) == {"preprocess_ms", "inference_ms", "postprocess_ms"}
    assert all(np.array_equal(seen.state[name], before.state[name]) for name in COMPONENTS)


def test_a_camera_of_another_size_is_made_the_policys(policy: Any) -> None:
    robot = Mock(cameras=("front",)).spec
    policy.meet(robot)
    bound, seen = BoundPolicy(policy, connect(robot, policy.spec)), frame()
    answers = []
    for size in ((8, 12), (24, 20)):
        seen.images["front"] = np.full((*size, 3), (200, 100, 50), np.uint8)
        answers.append(bound(seen, ChunkRequest(0)).rows)
    assert np.array_equal(*answers)


def test_without_a_robot_everything_can_be_said(tiny: Any) -> None:
    actions = ("right_arm:7", "right_gripper:gripper_position:1", "left_arm:7", "left_gripper:gripper_position:1")
    policy = Lerobot(path=str(tiny.folder), state=tuple(COMPONENTS), actions=actions, images=("head=front",))
    assert policy.spec.required_image_keys == ["head"]
    assert [(output.target, output.command, output.dim) for output in policy.spec.outputs][1] == (
        "right_gripper",
        "gripper_position",
        1,
    )
    connect(Mock(cameras=("head",)).spec, policy.spec)
    policy.meet(Mock(cameras=("head",)).spec)
    assert policy.spec.required_state_keys == COMPONENTS


def test_what_was_said_stands_in_the_order_in_which_it_was_said(tmp_path: Path) -> None:
    write(tmp_path, {STATE: (8,), FRONT: (3, 8, 12)}, 7)
    policy = Lerobot(path=str(tmp_path), state=("left_gripper", "left_arm"), actions=("left_arm:joint_velocity",))
    policy.meet(Mock(cameras=("front",)).spec)
    seen = frame()
    tensors = policy._wiring.observation(seen)
    np.testing.assert_array_equal(
        tensors[STATE], np.concatenate([seen.state["left_gripper"], seen.state["left_arm"]])
    )
    assert policy.spec.outputs == [PolicyOutputSpec("left_arm", "joint_velocity", 7)]


def test_state_beyond_the_joints_is_the_environments(tmp_path: Path) -> None:
    write(tmp_path, {STATE: (16,), ENVIRONMENT: (8,)}, 16)
    robot = Mock().spec
    policy = Lerobot(path=str(tmp_path))
    with pytest.raises(BindingError, match=r"robot 'mock' has none.*--policy\.environment"):
        policy.meet(robot)
    robot.state_keys = ["belts"]
    policy.meet(robot)
    assert policy.spec.required_state_keys == [*COMPONENTS, "belts"]
    seen = frame()
    seen.state["belts"] = np.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(policy._wiring.observation(seen)[ENVIRONMENT], np.arange(8.0))
    seen.state["belts"] = np.zeros(7)
    with pytest.raises(InterfaceValidationError, match=r"environment_state has 8 numbers.*make 7 \(belts 7\)"):
        policy.infer(seen, ChunkRequest(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": ("rigth_arm",)}, r"state 'rigth_arm' \(did you mean 'right_arm'"),
        ({"actions": ("rigth_arm",)}, r"no component 'rigth_arm' \(did you mean 'right_arm'"),
        ({"actions": ("right_arm",)}, r"actions have 16 numbers, the components make 7 \(right_arm 7\)"),
        ({"actions": ("right_arm", "right_arm")}, "named twice"),
        ({"actions": ("right_arm:cartesian_pse",)}, "does not take 'cartesian_pse'"),
        ({"actions": ("right_arm::7",)}, "write component"),
        ({"actions": (":joint_position",)}, "write component"),
        ({"images": ("front",)}, "write camera=feature; the policy's are: front"),
        ({"images": ("front=frnt",)}, r"'front=frnt'.*did you mean 'front'"),
        ({"images": ("front=front", "head=front")}, "is given two cameras"),
        ({"environment": ("belts",)}, r"the policy reads no observation\.environment_state"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tiny: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InterfaceValidationError, match=message):
        Lerobot(path=str(tiny.folder), **options).meet(Mock(cameras=("front", "head")).spec)


def test_a_robot_of_another_size_is_refused_naming_both(policy: Any, tmp_path: Path) -> None:
    with pytest.raises(BindingError, match=r"has 16 numbers.*make 8 \(arm 7, gripper 1\).*--policy\.state"):
        policy.meet(Mock(arms=1, cameras=("front",)).spec)
    with pytest.raises(
        BindingError, match=r"wants camera 'front'.*cameras are: head.*--policy\.images CAMERA=front"
    ):
        policy.meet(Mock(cameras=("head",)).spec)


def test_one_camera_cannot_be_two_sizes(tmp_path: Path) -> None:
    write(tmp_path, {FRONT: (3, 8, 12), "observation.images.top": (3, 8, 16)}, 2)
    with pytest.raises(BindingError, match=r"cannot be observation\.images\.top as well"):
        Lerobot(path=str(tmp_path), images=("head=front", "head=top"), actions=("arm:2",))


# What a frame lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda seen: seen.state.pop("left_arm"), r"state 'left_arm' is missing, which is observation\.state"),
        (lambda seen: seen.images.pop("front"), r"camera 'front' is missing, which is observation\.images\.front"),
        (lambda seen: seen.state.update(left_arm=np.zeros(6)), r"has 16 numbers, the frame's make 15"),
        (lambda seen: seen.state.update(left_arm=np.full(7, np.nan)), r"observation\.state"),
        (lambda seen: seen.images.update(front=np.zeros((9, 12, 3), np.uint8)), r"observation\.images\.front"),
    ],
)
def test_a_frame_that_lacks_something_is_refused_by_name(policy: Any, spoil: Any, message: str) -> None:
    policy.meet(Mock(cameras=("front",)).spec)
    seen = frame()
    spoil(seen)
    with pytest.raises(InterfaceValidationError, match=message):
        policy.infer(seen, ChunkRequest(0))


def test_a_policy_that_knows_no_robot_says_what_to_say(policy: Any) -> None:
    with pytest.raises(InterfaceValidationError, match=r"--policy\.state NAME,NAME and --policy\.actions"):
        policy.infer(frame(), ChunkRequest(0))


def test_a_policy_that_reads_a_task_has_one_or_says_so(tmp_path: Path) -> None:
    write(tmp_path, {STATE: (2,)}, 2, kind="smolvla")
    options = {"path": str(tmp_path), "state": ("arm",), "actions": ("arm:2",)}
    policy = Lerobot(**options)
    assert policy.spec.required_task_keys == ["prompt"]
    with pytest.raises(InterfaceValidationError, match=r"no 'prompt'.*--policy\.task"):
        policy.infer(Frame(state={"arm": np.zeros(2)}), ChunkRequest(0))
    policy.infer(Frame(state={"arm": np.zeros(2)}, task={"prompt": "stack"}), ChunkRequest(0))
    told = Lerobot(**options, task="stack")
    assert told.spec.required_task_keys == []
    told.infer(Frame(state={"arm": np.zeros(2)}), ChunkRequest(0))


# What a session remembers -------------------------------------------------------------------------------------


@pytest.fixture
def remembering(tmp_path: Path) -> Any:
    write(tmp_path, {STATE: (2,)}, 2, rows=3, kind="diffusion", n_obs_steps=2)
    return Lerobot(path=str(tmp_path), state=("arm",), actions=("arm:2",))


def answer(policy: Any, step: int, value: float) -> Any:
    return policy.infer(Frame(state={"arm": np.array([value, 0.5])}), ChunkRequest(step)).rows


def expected(policy: Any, *values: float) -> Any:
    past = [{STATE: np.array([value, 0.5])} for value in values]
    return policy.coordinator(past).action.astype(np.float64)


def test_the_history_begins_with_its_first_frame_and_goes_on(remembering: Any) -> None:
    assert np.array_equal(answer(remembering, 0, 1.0), expected(remembering, 1.0, 1.0))
    assert np.array_equal(answer(remembering, 1, 2.0), expected(remembering, 1.0, 2.0))
    assert np.array_equal(answer(remembering, 2, 3.0), expected(remembering, 2.0, 3.0))


def test_asking_again_about_a_step_changes_nothing(remembering: Any) -> None:
    answer(remembering, 0, 1.0)
    first = answer(remembering, 1, 2.0)
    assert np.array_equal(answer(remembering, 1, 2.0), first)
    assert np.array_equal(answer(remembering, 2, 3.0), expected(remembering, 2.0, 3.0))


@pytest.mark.parametrize("how", ["reset", "an earlier step"])
def test_an_episode_begins_with_no_history(remembering: Any, how: str) -> None:
    answer(remembering, 5, 1.0)
    if how == "reset":
        remembering.reset()
    assert np.array_equal(answer(remembering, 0, 2.0), expected(remembering, 2.0, 2.0))


def test_frames_that_are_not_consecutive_are_said_once(remembering: Any, caplog: pytest.LogCaptureFixture) -> None:
    for step in (0, 1, 2):
        answer(remembering, step, 0.5)
    assert not caplog.records
    for step in (10, 18):
        answer(remembering, step, 0.5)
    answer(remembering.session(), 0, 0.5)
    assert [record.getMessage() for record in caplog.records] == [
        "diffusion reads consecutive frames, and is asked every 8 steps: it sees motion as if it were faster"
    ]


def test_sessions_are_apart_and_share_the_network(remembering: Any) -> None:
    one, other = remembering.session(), remembering.session()
    answer(one, 0, 1.0)
    answer(other, 0, 5.0)
    assert np.array_equal(answer(one, 1, 2.0), expected(remembering, 1.0, 2.0))
    assert np.array_equal(answer(other, 1, 6.0), expected(remembering, 5.0, 6.0))
    one.reset()
    one.close()
    assert np.array_equal(answer(other, 2, 7.0), expected(remembering, 6.0, 7.0))
    remembering.close()
    remembering.close()
    with pytest.raises(RuntimeError):
        answer(other, 3, 8.0)


def test_a_session_meets_a_robot_of_its_own(policy: Any) -> None:
    one = policy.session()
    one.meet(Mock(cameras=("front",)).spec)
    assert one.spec is not None and policy.spec is None


def test_a_policy_that_remembers_nothing_and_needs_no_robot_is_its_own_session(policy: Any, tiny: Any) -> None:
    columns = {name: 7 if name.endswith("arm") else 1 for name in COMPONENTS}

    def told(kind: str) -> Any:
        actions = tuple(f"{name}{kind}:{dim}" for name, dim in columns.items())
        return Lerobot(path=str(tiny.folder), state=tuple(COMPONENTS), actions=actions)

    whole, without_kinds = told(":joint_position"), told("")
    assert whole.session() is whole
    for each in (policy, without_kinds):  # the robot's first kind may be another one
        assert each.session() is not each


# Options ------------------------------------------------------------------------------------------------------


def test_some_rows_of_a_chunk(tiny: Any) -> None:
    robot = Mock(cameras=("front",)).spec
    whole, some = Lerobot(path=str(tiny.folder)), Lerobot(path=str(tiny.folder), n_action_steps=3, control_hz=30.0)
    for policy in (whole, some):
        policy.meet(robot)
    assert (some.spec.action_horizon, some.spec.control_hz) == (3, 30.0)
    rows = some.infer(frame(), ChunkRequest(0)).rows
    assert np.array_equal(rows, whole.infer(frame(), ChunkRequest(0)).rows[:3])
    with pytest.raises(InterfaceValidationError, match="n_action_steps must be 1 to 4"):
        Lerobot(path=str(tiny.folder), n_action_steps=5)


def test_actions_stay_within_the_training_data_where_asked(tmp_path: Path) -> None:
    tiny = write(tmp_path, {STATE: (2,)}, 2, spread=50.0)
    options = {"path": str(tmp_path), "state": ("arm",), "actions": ("arm:2",)}
    seen = Frame(state={"arm": np.array([3.0, -3.0])})
    free = Lerobot(**options).infer(seen, ChunkRequest(0)).rows
    policy = Lerobot(**options, clamp=True)
    low, high = tiny.statistics["action"]["min"], tiny.statistics["action"]["max"]
    np.testing.assert_allclose(policy.infer(seen, ChunkRequest(0)).rows, np.clip(free, low, high), atol=1e-6)
    assert policy.coordinator.postprocessor.clamped == np.sum((free < low) | (free > high)) > 0


def test_leaving_the_training_data_is_said_once(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy.meet(Mock(cameras=("front",)).spec)
    seen = frame()
    policy.infer(seen, ChunkRequest(0))
    assert not caplog.records
    seen.state["left_arm"] = np.full(7, 9.0)
    with caplog.at_level(logging.WARNING):
        policy.infer(seen, ChunkRequest(1))
        said = len(caplog.records)
        policy.infer(seen, ChunkRequest(2))
    assert 0 < said == len(caplog.records) and STATE in caplog.text
    assert policy.monitor.counts


def test_options_that_the_engine_has_not_are_refused_by_name(tiny: Any) -> None:
    with pytest.raises(InterfaceValidationError, match="engine onnx has no option 'compile'"):
        Lerobot(path=str(tiny.folder), compile=True)
    with pytest.raises(InterfaceValidationError, match="float32, not in 'bfloat16'"):
        Lerobot(path=str(tiny.folder), dtype="bfloat16")
    with pytest.raises(InterfaceValidationError, match="threads must be at least 1"):
        Lerobot(path=str(tiny.folder), threads=0)
    with pytest.raises(ValueError, match="no device 'cuda'"):
        Lerobot(path=str(tiny.folder), device="cuda")
    with pytest.raises(plugins.UnknownAdapter, match="did you mean 'onnx'"):
        Lerobot(path=str(tiny.folder), engine="onxn")
    Lerobot(path=str(tiny.folder), seed=3).close()  # nothing is drawn there


# What a directory lacks ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    write(tmp_path, INPUTS, 16)
    (tmp_path / "chunkwise.json").unlink()
    return tmp_path


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is no JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b'"\xff"'), r"config\.json is no UTF-8"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json must be a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), r"config\.json is no JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b" " * (MOST_TEXT_BYTES + 1)), "more than"),
        (lambda folder: change(folder / "config.json", type=None), "has no 'type'"),
        (lambda folder: change(folder / "config.json", input_features={}), "input_features must name"),
        (lambda folder: change(folder / "config.json", input_features={"a": {"type": "STATE"}}), "input_features"),
        (lambda folder: change(folder / "config.json", output_features=None), "output_features must name"),
        (lambda folder: change(folder / "config.json", n_obs_steps=0), "n_obs_steps must be a number from 1"),
        (lambda folder: change(folder / "config.json", n_obs_steps=True), "n_obs_steps must be a number"),
        (lambda folder: (folder / "policy_preprocessor.json").unlink(), r"no policy_preprocessor\.json.*migrate"),
        (
            lambda folder: (folder / "policy_postprocessor.json").unlink(),
            r"no policy_postprocessor\.json.*migrate",
        ),
        (
            lambda folder: (folder / "policy_preprocessor_step_3_normalizer_processor.safetensors").unlink(),
            r"step_3_normalizer_processor\.safetensors.*copy it whole",
        ),
        (
            lambda folder: (folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors").write_bytes(
                b""
            ),
            "safetensors",
        ),
    ],
)
def test_what_a_directory_lacks_is_named(copied: Path, spoil: Any, message: str) -> None:
    spoil(copied)
    with pytest.raises((InterfaceValidationError, FileNotFoundError), match=message):
        open_checkpoint(copied).processors()


def test_a_directory_names_no_file_elsewhere(copied: Path) -> None:
    path = copied / "policy_preprocessor.json"
    tree = json.loads(path.read_text())
    for name in ("../secret.safetensors", "/etc/passwd", "..", "a\\b"):
        tree["steps"][3]["state_file"] = name
        path.write_text(json.dumps(tree))
        with pytest.raises(InterfaceValidationError):
            open_checkpoint(copied).processors()


def test_a_checkpoint_without_its_weights_is_refused(copied: Path) -> None:
    assert open_checkpoint(copied).engine == "lerobot"
    with pytest.raises(FileNotFoundError, match=r"chunkwise\.json|no chunkwise"):
        Lerobot(path=str(copied), engine="onnx")


@pytest.mark.parametrize(
    "path", ["no/such/directory", "./nothing", "/nothing/there", "~/nothing-there", "nothing"]
)
def test_a_mistyped_path_is_never_a_hub_id(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        Lerobot(path=path)


def test_a_hub_id_is_downloaded_and_a_directory_of_that_name_wins(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append(name)
        return str(tiny.folder)

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    Lerobot(path="somebody/act_mug").close()
    assert asked == ["somebody/act_mug"]
    write(tmp_path / "somebody" / "act_mug", INPUTS, 16)
    Lerobot(path="somebody/act_mug").close()
    assert len(asked) == 1


def test_transformers_tokeniser_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name: str) -> Any:
            if name != "known":
                raise OSError("no such repository")
            return lambda texts, **options: {
                "input_ids": np.ones((len(texts), options["max_length"]), np.int32),
                "attention_mask": np.ones((len(texts), options["max_length"]), np.int32),
            }

    module = types.ModuleType("transformers")
    module.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    tokens, mask = pretrained_tokenizer("known")(
        ["stack"], max_length=5, padding="max_length", padding_side="right", truncation=True
    )
    assert (tokens.shape, tokens.dtype, mask.dtype) == ((1, 5), np.int64, np.bool_)
    with pytest.raises(FileNotFoundError, match="'other' cannot be loaded: no such repository"):
        pretrained_tokenizer("other")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(plugins.MissingExtra, match="transformers is not installed"):
        pretrained_tokenizer("known")


def test_an_unknown_step_is_an_error_by_name(copied: Path) -> None:
    path = copied / "policy_preprocessor.json"
    tree = json.loads(path.read_text())
    tree["steps"].append({"registry_name": "colour_by_numbers", "config": {}})
    path.write_text(json.dumps(tree))
    with pytest.raises(ProcessingError, match="colour_by_numbers"):
        open_checkpoint(copied).processors()


def test_actions_without_statistics_are_refused(tmp_path: Path) -> None:
    """LeRobot would pass them on as they are; a robot would go anywhere."""
    write(tmp_path, INPUTS, 16)
    path = tmp_path / "policy_postprocessor.json"
    tree = json.loads(path.read_text())
    del tree["steps"][0]["state_file"]
    path.write_text(json.dumps(tree))
    with pytest.raises(InterfaceValidationError, match="has no statistics of 'action'"):
        plugins.load("policies", "pipeline")(processors=str(tmp_path), model=str(tmp_path / "model.onnx"))


ENGINE = """
from chunkwise.engines import TensorSpec

class Told:
    inputs, outputs = {}, {"action": TensorSpec((1, 4, 16), "float32")}

    def __init__(self, *, threads: int, dtype: str, compile: bool = False, seed: int | None = None):
        self.told = {"threads": threads, "dtype": dtype, "compile": compile, "seed": seed}

    def load(self, path, device):
        self.told |= {"path": path, "device": device}
"""


def test_options_go_to_the_engine(tiny: Any, tmp_path: Path) -> None:
    """One thread, where nothing is said: a control loop needs the others."""
    (tmp_path / "engine.py").write_text(ENGINE)

    def told(**options: Any) -> Any:
        name = f"{tmp_path / 'engine.py'}:Told"
        return Lerobot(path=str(tiny.folder), engine=name, **options).coordinator.engine.engine.told

    usual = {"threads": 1, "dtype": "float32", "compile": False, "seed": None}
    assert told() == {**usual, "path": str(tiny.folder), "device": "auto"}
    asked = {"threads": 3, "dtype": "float16", "compile": True, "seed": 5, "device": "cuda:1"}
    assert told(**asked) == {**asked, "path": str(tiny.folder)}


WITHOUT = """
import subprocess
import sys
for name in ("torch", "torchvision", "lerobot", "transformers", "safetensors", "huggingface_hub", "openvino"):
    sys.modules[name] = None
import numpy as np
from chunkwise import plugins
from chunkwise.contract import ChunkRequest, Frame
policy = plugins.load("policies", "lerobot")(path=sys.argv[1], state=("arm",), actions=("arm:16",))
policy.warmup()
frame = Frame({"front": np.zeros((8, 12, 3), np.uint8)}, {"arm": np.zeros(16)})
print(policy.infer(frame, ChunkRequest(0)).rows.shape)
"""


def test_an_exported_policy_needs_neither_torch_nor_lerobot(tiny: Any) -> None:
    made = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tiny.folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.stdout == "(4, 16)\n", made.stderr
