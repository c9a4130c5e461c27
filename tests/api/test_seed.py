"""Code written for inferaxis: only the import is another.  The snippets stand as they were published."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import chunkwise as infra
from chunkwise.testing.world import SimulatedClock

ROOT_NAMES = sorted(
    """
Action BuiltinCommandKind ChunkRequest Command CommandKindSpec ComponentSpec Frame InferenceMode InferenceRuntime
InterfaceValidationError PolicyOutputSpec PolicySpec RealtimeController RobotSpec RtcArgs StepResult action_to_dict
check_pair check_policy check_robot coerce_action coerce_frame frame_to_dict profile_sync_inference
recommend_inference_mode register_command_kind run_step validate_action validate_command validate_component_spec
validate_frame validate_policy_output_spec validate_policy_spec validate_robot_spec PolicyFailed PolicyTimedOut
RobotFailed Recorder EpisodeReader EpisodeWriter
""".split()  # noqa: SIM905  a list of names reads better without quotes
)


class YourExecutor:
    def get_obs(self):
        return infra.Frame(
            images={"front_rgb": np.zeros((2, 2, 3), dtype=np.uint8)},
            state={
                "left_arm": np.zeros(6, dtype=np.float64),
                "left_gripper": np.array([0.5], dtype=np.float64),
                "right_arm": np.zeros(6, dtype=np.float64),
                "right_gripper": np.array([0.5], dtype=np.float64),
            },
        )

    def send_action(self, action):
        return action


class YourPolicy:
    def infer(self, frame, request):
        del frame, request
        return infra.Action(
            commands={
                "left_arm": infra.Command(
                    command=infra.BuiltinCommandKind.CARTESIAN_POSE_DELTA,
                    value=np.zeros(6, dtype=np.float64),
                ),
                "left_gripper": infra.Command(
                    command=infra.BuiltinCommandKind.GRIPPER_POSITION,
                    value=np.array([0.5], dtype=np.float64),
                ),
                "right_arm": infra.Command(
                    command=infra.BuiltinCommandKind.CARTESIAN_POSE_DELTA,
                    value=np.zeros(6, dtype=np.float64),
                ),
                "right_gripper": infra.Command(
                    command=infra.BuiltinCommandKind.GRIPPER_POSITION,
                    value=np.array([0.5], dtype=np.float64),
                ),
            }
        )


class YourChunkedPolicy(YourPolicy):
    """Returning ``list[Action]`` lets the same source participate in async chunk scheduling."""

    def infer(self, frame, request):
        self.last = request
        return [super(YourChunkedPolicy, self).infer(frame, request) for _ in range(20)]


executor = YourExecutor()


def test_the_first_loop() -> None:
    policy = YourPolicy()
    result = infra.run_step(
        observe_fn=executor.get_obs,
        act_fn=executor.send_action,
        act_src_fn=policy.infer,
    )
    assert set(result.action.commands) == {"left_arm", "left_gripper", "right_arm", "right_gripper"}


def test_frame_to_action_only() -> None:
    policy = YourPolicy()
    my_frame = executor.get_obs()
    result = infra.run_step(
        frame=my_frame,
        act_src_fn=policy.infer,
        execute_action=False,
    )
    assert result.frame.state["left_arm"] is my_frame.state["left_arm"]


def test_a_frame() -> None:
    frame = infra.Frame(
        images={"front_rgb": np.zeros((2, 2, 3), dtype=np.uint8)},
        state={
            "left_arm": np.zeros(6),
            "left_gripper": np.zeros(1),
            "right_arm": np.zeros(6),
            "right_gripper": np.zeros(1),
        },
    )
    infra.validate_frame(frame)


def test_an_action() -> None:
    action = infra.Action(
        commands={
            "left_arm": infra.Command(
                command=infra.BuiltinCommandKind.CARTESIAN_POSE_DELTA,
                value=np.zeros(6),
            ),
            "left_gripper": infra.Command(
                command=infra.BuiltinCommandKind.GRIPPER_POSITION,
                value=np.zeros(1),
            ),
        },
    )
    infra.validate_action(action)


def test_the_runtime_snippet(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimulatedClock()
    paced = infra.RealtimeController
    monkeypatch.setattr(infra, "RealtimeController", lambda hz: paced(hz, clock=clock, sleeper=clock.sleep))
    policy = YourChunkedPolicy()
    runtime = infra.InferenceRuntime(
        mode=infra.InferenceMode.ASYNC,
        steps_before_request=0,
        warmup_requests=1,
        profile_delay_requests=3,
        realtime_controller=infra.RealtimeController(hz=50.0),
    )

    result = infra.run_step(
        observe_fn=executor.get_obs,
        act_fn=executor.send_action,
        act_src_fn=policy.infer,
        runtime=runtime,
    )
    assert result.plan_refreshed and result.control_wait_s == pytest.approx(0.02)
    runtime.close()


def test_bootstrap_before_the_loop() -> None:
    policy = YourChunkedPolicy()
    with infra.InferenceRuntime(mode=infra.InferenceMode.ASYNC, control_hz=50.0) as runtime:
        runtime.bootstrap_async(observe_fn=executor.get_obs, act_src_fn=policy.infer)
        result = infra.run_step(
            observe_fn=executor.get_obs,
            act_fn=executor.send_action,
            act_src_fn=policy.infer,
            runtime=runtime,
            pace_control=False,
        )
    assert result.plan_refreshed


def test_rtc_hints_on_the_request_and_grouped() -> None:
    policy = YourChunkedPolicy()
    runtime = infra.InferenceRuntime(
        mode=infra.InferenceMode.ASYNC,
        enable_rtc=True,
        execution_steps=8,
        latency_steps_offset=1,
        ensemble_weight=(0.2, 0.8),
        worker="inline",
    )
    for _ in range(3):
        infra.run_step(
            observe_fn=executor.get_obs, act_fn=executor.send_action, act_src_fn=policy.infer, runtime=runtime
        )
    request = policy.last
    assert len(request.prev_action_chunk) == 20
    assert request.rtc_args.prev_action_chunk is request.prev_action_chunk
    assert (request.rtc_args.inference_delay, request.rtc_args.execute_horizon) == (
        request.inference_delay,
        request.execute_horizon,
    )


def test_profile_and_recommend() -> None:
    policy = YourChunkedPolicy()
    profile = infra.profile_sync_inference(observe_fn=executor.get_obs, act_src_fn=policy.infer, target_hz=50.0)
    assert profile.estimated_chunk_steps == 20
    recommended = infra.recommend_inference_mode(
        observe_fn=executor.get_obs, act_src_fn=policy.infer, target_hz=50.0
    )
    assert recommended.recommended_mode in (infra.InferenceMode.SYNC, infra.InferenceMode.ASYNC)


def test_checks_are_dry_runs() -> None:
    class Watched(YourExecutor):
        observed = 0

        def get_obs(self):
            self.observed += 1
            return super().get_obs()

        def send_action(self, action):
            raise AssertionError("nothing is sent")

    watched = Watched()
    infra.check_policy(YourPolicy(), sample_frame=executor.get_obs())
    infra.check_pair(watched, YourPolicy())
    assert watched.observed <= 1


def test_a_seven_joint_arm_takes_a_six_number_pose() -> None:
    class Arm(YourExecutor):
        def get_spec(self):
            return infra.RobotSpec(
                "arm", [], [infra.ComponentSpec("arm", "arm", 7, ["joint_position", "cartesian_pose_delta"])]
            )

        def get_obs(self):
            return infra.Frame(state={"arm": np.zeros(7)})

    class Pose:
        def get_spec(self):
            return infra.PolicySpec(
                "pose", [], ["arm"], outputs=[infra.PolicyOutputSpec("arm", "cartesian_pose_delta", 6)]
            )

        def infer(self, frame, request):
            return infra.Action.single(target="arm", command="cartesian_pose_delta", value=np.zeros(6))

    infra.check_pair(Arm(), Pose())


# ── names ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ROOT_NAMES)
def test_the_name_is_at_the_root(name: str) -> None:
    assert getattr(infra, name) is not None
    assert name in infra.__all__ and name in dir(infra)


def test_names_are_imported_when_they_are_used() -> None:
    probe = (
        "import sys, chunkwise as c; c.Frame; print(any(m.startswith('chunkwise.runtime') for m in sys.modules))"
    )
    made = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "False"


def test_types_and_names_at_the_root_agree() -> None:
    for name, module in infra._HOMES.items():
        assert getattr(infra, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_there_is_none_of() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        infra.nonsense  # noqa: B018


@pytest.mark.parametrize("kind", ["policies", "robots"])
def test_replay_is_found_by_name(kind: str) -> None:
    adapter: Any = infra.load(kind, "replay")
    assert "replay" in infra.names(kind) and callable(adapter)


@pytest.mark.parametrize("kind", list(infra.BuiltinCommandKind))
def test_command_kinds_keep_their_names(kind: infra.BuiltinCommandKind) -> None:
    size = 6 if kind == "cartesian_twist" else 1
    infra.validate_command(infra.Command(command=kind, value=np.zeros(size)))
    assert str(kind) == kind.name.lower()


def test_error_types_have_one_base() -> None:
    assert issubclass(infra.InterfaceValidationError, ValueError)
    for finer in (infra.PolicyFailed, infra.PolicyTimedOut, infra.RobotFailed):
        assert issubclass(finer, infra.InterfaceValidationError)
