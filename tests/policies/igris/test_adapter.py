"""An IGRIS policy on a robot: what it is given, what is refused by name, and that it drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import prefix_weights
from chunkwise.cli import main
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    RobotSpec,
    connect,
)
from chunkwise.policies import Policy
from chunkwise.policies.igris import Igris, MissingFile, PolicyFileError
from chunkwise.testing import PolicyConformance

WIDTHS = ("right_arm:7", "right_gripper:1", "left_arm:7", "left_gripper:1")
KINDS = ("right_arm:7", "right_gripper:1:gripper_position", "left_arm:7", "left_gripper:1:gripper_position")


def meeting(folder: Any, **options: Any) -> Any:
    """The policy, introduced to the two-armed robot."""
    policy = Igris(config=folder.yaml, **options)
    policy.meet(folder.robot())
    return policy


def rows_of(policy: Any, frame: Frame, step: int = 0, **request: Any) -> Any:
    answer = policy.infer(frame, ChunkRequest(step, **request))
    assert isinstance(answer, ActionChunk)
    return answer.rows


class TestConformance(PolicyConformance):
    @pytest.fixture(autouse=True)
    def _made(self, folder: Any) -> None:
        self.folder = folder

    def make_policy(self) -> Policy:
        return Igris(config=self.folder.yaml, state_keys=WIDTHS, action_keys=KINDS)


def test_the_spec_says_what_the_files_say(folder: Any) -> None:
    policy = meeting(folder)
    spec = policy.spec
    assert spec.name == "echo" and spec.action_horizon == 50 and spec.control_hz == 20 and spec.supports_prefix
    assert spec.required_image_keys == ["head", "left", "right"]
    assert spec.required_state_keys == ["right_arm", "right_gripper", "left_arm", "left_gripper"]
    assert [(out.target, out.command, out.dim) for out in spec.outputs][1] == (
        "right_gripper",
        "gripper_position",
        1,
    )
    rule = spec.images["head"]
    assert (rule.height, rule.width, rule.fit, rule.interpolation) == (24, 32, "stretch", "area")
    assert spec.meta == {"max_delta_deg": 5.0, "policy_update_period": 50}
    connect(folder.robot(), spec)


def test_a_request_without_a_plan_is_a_prediction(folder: Any) -> None:
    policy, frame = meeting(folder), folder.frame()
    rows = rows_of(policy, frame)
    state = np.concatenate([frame.state[key] for key in policy.spec.required_state_keys])
    np.testing.assert_allclose(rows, np.tile(state, (50, 1)), atol=1e-7)
    assert rows.dtype == np.float64
    (method, data) = policy.policy.calls[-1]
    assert method == "predict" and sorted(data) == ["head", "left", "proprio", "right"]
    assert data["head"].shape == (1, 3, 24, 32) and data["head"].dtype == np.uint8


def test_a_request_that_shares_the_plan_is_guided(folder: Any) -> None:
    policy, plan = meeting(folder), np.arange(30 * 16, dtype=np.float64).reshape(30, 16) / 480
    rows = rows_of(
        policy, folder.frame(), 20, prefix=plan, prefix_weights=prefix_weights(4, 30), inference_delay=4
    )
    (method, data) = policy.policy.calls[-1]
    assert method == "guided_inference" and data["s"] == data["num_control_iters"] == 20 and data["H"] == 50
    assert data["est_delay"] == 4
    np.testing.assert_allclose(rows[:30], plan, atol=1e-7)
    np.testing.assert_allclose(rows[30:], np.tile(plan[-1], (20, 1)), atol=1e-7)


def test_columns_go_by_the_list_that_is_given(folder: Any) -> None:
    left_first = ("left_arm", "left_gripper", "right_arm", "right_gripper")
    policy, frame = meeting(folder, state_keys=left_first), folder.frame()
    rows = rows_of(policy, frame)
    assert [output.target for output in policy.spec.outputs] == list(left_first)
    np.testing.assert_allclose(rows[0, :7], frame.state["left_arm"], atol=1e-7)
    in_order = connect(folder.robot(), policy.spec).chunk(ActionChunk(rows)).rows
    np.testing.assert_allclose(in_order[0, :7], frame.state["right_arm"], atol=1e-7)


def test_pictures_are_resized_by_area_and_never_mixed_up(folder: Any) -> None:
    policy, frame = meeting(folder), folder.frame()
    rows_of(policy, frame)
    data = policy.policy.calls[-1][1]
    for name, image in frame.images.items():
        whole = image.reshape(24, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
        assert np.abs(data[name][0] - whole).max() <= 1
    rows_of(policy, Frame({name: data[name][0].transpose(1, 2, 0) for name in frame.images}, frame.state), 1)
    assert np.array_equal(policy.policy.calls[-1][1]["head"], data["head"]), (
        "a picture of that size stays as it is"
    )


def test_cameras_may_have_other_names_on_the_robot(folder: Any) -> None:
    policy, frame = meeting(folder, cameras=("head=cam_high",)), folder.frame()
    assert policy.spec.required_image_keys == ["cam_high", "left", "right"]
    frame.images["cam_high"] = np.full((24, 32, 3), 7, np.uint8)
    rows_of(policy, frame)
    assert (policy.policy.calls[-1][1]["head"] == 7).all()
    with pytest.raises(
        InterfaceValidationError, match=r"'haed=cam' must be NAME=ROBOT_CAMERA \(did you mean 'head'"
    ):
        Igris(config=folder.yaml, cameras=("haed=cam",))


def test_the_prompt_is_the_observations_or_the_option_or_not_there(folder: Any) -> None:
    frame = folder.frame()
    for option, task, said in (("", {}, None), ("fold", {}, "fold"), ("fold", {"prompt": "sort"}, "sort")):
        policy = meeting(folder, prompt=option)
        rows_of(policy, Frame(frame.images, frame.state, task))
        assert policy.policy.calls[-1][1].get("prompt") == said


def test_history_is_of_the_session_and_of_the_episode(folder: Any) -> None:
    folder.params(proprio_history_size=3)
    policy, other = meeting(folder), meeting(folder).session()
    first = policy.session()

    def proprio(one: Any, seed: int, step: int) -> Any:
        rows_of(one, folder.frame(seed), step)
        return one.policy.calls[-1][1]["proprio"]

    own = [proprio(first, seed, seed) for seed in range(3)][-1]
    assert not np.array_equal(own[0], own[1]) and not np.array_equal(own[1], own[2])
    assert np.array_equal(proprio(other, 7, 3)[0], proprio(other, 7, 3)[2]), "another session has seen nothing"
    assert np.array_equal(proprio(policy, 7, 3)[0], proprio(policy, 7, 3)[2])
    first.reset()
    fresh = proprio(first, 9, 4)
    assert np.array_equal(fresh[0], fresh[2]), "and nor has a new episode"


def test_missing_state_and_cameras_are_errors_by_name(folder: Any) -> None:
    policy, frame = meeting(folder), folder.frame()
    state = {key: value for key, value in frame.state.items() if key != "left_arm"}
    with pytest.raises(InterfaceValidationError, match=r"no state 'left_arm'.*there are: right_arm"):
        rows_of(policy, Frame(frame.images, state))
    images = {key: value for key, value in frame.images.items() if key != "head"}
    with pytest.raises(InterfaceValidationError, match="no camera 'head'; there are: left, right"):
        rows_of(policy, Frame(images, frame.state))
    assert not policy.policy.calls, "the policy was never asked"


@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        ("state", "left_arm", np.zeros(6), r"state 'left_arm' has shape \(6,\), policy 'echo' needs \(7,\)"),
        ("state", "left_arm", np.full(7, np.nan), "'left_arm' holds a number that is not finite"),
        (
            "images",
            "head",
            np.zeros((3, 24, 32), np.uint8),
            r"camera 'head': needs \(height, width, 3\) uint8 RGB",
        ),
        ("images", "head", np.zeros((24, 32, 3), np.float32), r"has \(24, 32, 3\) float32"),
    ],
)
def test_wrong_observations_are_errors_by_name(folder: Any, kind: str, name: str, value: Any, said: str) -> None:
    policy, frame = meeting(folder), folder.frame()
    getattr(frame, kind)[name] = value
    with pytest.raises(InterfaceValidationError, match=said):
        rows_of(policy, frame)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r"predict\(\) returned NoneType; it answers an array or tensor \(50, 16\)"),
        ([[0.0] * 16] * 50, "returned list"),
        (np.zeros((50, 16), bool), "returned ndarray"),
        (np.zeros((49, 16)), r"returned shape \(49, 16\), the runtime parameters say \(50, 16\)"),
        (np.zeros((2, 50, 16)), r"returned shape \(2, 50, 16\)"),
        (np.zeros(16), r"returned shape \(16,\)"),
        (np.where(np.arange(800).reshape(50, 16) == 35, np.nan, 0.0), "returned nan in row 2, column 3"),
    ],
)
def test_an_answer_that_is_no_chunk_is_refused(
    folder: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    policy = meeting(folder)
    monkeypatch.setattr(policy.policy, "predict", lambda data, statistics: answer)
    with pytest.raises(InterfaceValidationError, match=f"policy 'echo': .*{said}"):
        rows_of(policy, folder.frame())


def test_a_leading_axis_of_one_is_taken_off_and_answers_are_copies(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, buffer = meeting(folder), np.zeros((1, 50, 16), np.float32)
    monkeypatch.setattr(policy.policy, "predict", lambda data, statistics: buffer)
    rows = rows_of(policy, folder.frame())
    buffer[:] = 1
    assert rows.shape == (50, 16) and not rows.any()


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({}, {"proprio_state_dim": 24}, r"proprio_state_dim = 24, and state_keys are 16 columns \(right_arm 7, "),
        ({}, {"action_dim": 14}, "action_dim = 14, and action_keys are 16 columns"),
        ({"state_keys": ("lefft_arm",)}, {}, r"the robot has no 'lefft_arm' \(did you mean 'left_arm'\?\)"),
        ({"action_keys": ("left_arm", "force")}, {}, "action_keys: the robot has no 'force'"),
        ({"state_keys": ("left_arm", "left_arm")}, {}, "'left_arm' twice"),
        ({"state_keys": ("left_arm:0",)}, {}, "must be NAME or NAME:COLUMNS"),
        ({"state_keys": ("left_arm:joint_position",)}, {}, "must be NAME or NAME:COLUMNS"),
        ({"state_keys": WIDTHS, "action_keys": WIDTHS[:3]}, {}, "action_dim = 16, and action_keys are 15 columns"),
    ],
)
def test_columns_that_do_not_add_up_are_refused(
    folder: Any, options: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    folder.params(**changes)
    with pytest.raises(InterfaceValidationError, match=said):
        meeting(folder, **options)


def test_state_that_is_no_component_says_its_columns(folder: Any) -> None:
    robot = RobotSpec("one", ["head", "left", "right"], [ComponentSpec("arm", "arm", 6, ["joint_position"])])
    robot.state_keys = ["force"]
    folder.params(proprio_state_dim=9, action_dim=6)
    with pytest.raises(InterfaceValidationError, match=r"'force' is no component.*force:N"):
        Igris(config=folder.yaml, state_keys=("arm", "force")).meet(robot)
    for keys in (("force:3", "arm"), ("force:3", "arm:6")):
        policy = Igris(config=folder.yaml, state_keys=keys)
        policy.meet(robot)
        assert policy.spec is not None and [output.target for output in policy.spec.outputs] == ["arm"]


def test_without_a_robot_and_without_columns_it_says_what_to_give(folder: Any) -> None:
    policy = Igris(config=folder.yaml)
    assert policy.spec is None
    with pytest.raises(
        InterfaceValidationError, match=r"nobody said which robot.*give state_keys and action_keys"
    ):
        policy.infer(folder.frame(), ChunkRequest(0))


def test_a_warmup_that_fails_is_an_error(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = meeting(folder)
    policy.warmup()
    assert policy.policy.calls[-1][0] == "warmup"

    def fail() -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(policy.policy, "warmup", fail)
    with pytest.raises(PolicyFailed, match=r"policy 'echo': warmup\(\) raised RuntimeError: no kernel"):
        policy.warmup()


def test_missing_files_are_errors_by_name(folder: Any) -> None:
    folder.params(norm_stats_file_path="stats.pkl")
    with pytest.raises(MissingFile, match=r"norm_stats_file_path: no file .*stats.pkl"):
        Igris(config=folder.yaml)
    (folder.path / "inference_runtime_params.json").unlink()
    with pytest.raises(MissingFile, match=r"runtime parameters: no file .*inference_runtime_params.json"):
        Igris(config=folder.yaml)
    with pytest.raises(MissingFile, match=r"policy YAML: no file .*gone.yaml"):
        Igris(config=folder.path / "gone.yaml", params=folder.params())


def test_statistics_that_are_asked_for_and_not_there_are_an_error(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = meeting(folder)
    monkeypatch.setattr(
        policy.policy, "predict", lambda data, statistics: statistics.normalize_state(data)["proprio"]
    )
    with pytest.raises(PolicyFileError, match="there are none: name their file by norm_stats_file_path"):
        rows_of(policy, folder.frame())


def test_a_policy_that_remembers_needs_sessions_to_be_shared(folder: Any) -> None:
    policy = meeting(folder)
    policy.policy.reset = lambda: policy.policy.calls.append(("reset", {}))
    policy.reset()
    assert policy.policy.calls[-1][0] == "reset"
    with pytest.raises(InterfaceValidationError, match=r"has reset\(\) and no session\(\)"):
        policy.session()
    policy.policy.session = lambda: "another"
    assert policy.session().policy == "another"


def test_where_there_are_to_and_eval_they_are_called(folder: Any) -> None:
    text = (folder.path / "echo.py").read_text()
    folder.write(
        "echo.py", f"{text}\n    def to(self, device): self.device = device\n    def eval(self): self.on = True\n"
    )
    inner = meeting(folder).policy
    assert inner.device == "cpu" and inner.on


@pytest.mark.parametrize("strategy", ["rtc", "sync"])
def test_the_example_drives_a_robot_from_the_command_line(
    strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = Path(__file__).parents[3] / "examples" / "igris_policy" / "your_policy.yaml"
    words = "run --robot mock --robot.cameras head,left,right --control-hz 20 --seconds 0.5 --policy igris"
    assert main([*words.split(), "--policy.config", str(yaml), "--strategy", strategy]) == 0
    assert strategy in capsys.readouterr().out
