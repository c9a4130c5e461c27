"""Observe, infer, act: first a policy that answers single actions, then one that answers chunks.

python examples/01_sync_inference.py
"""

from __future__ import annotations

import numpy as np

import chunkwise as infra


class Arm:
    """Two joints and a gripper, which go where they are told."""

    def __init__(self) -> None:
        self.joints, self.opening = np.zeros(2), np.zeros(1)

    def get_obs(self) -> infra.Frame:
        return infra.Frame(
            images={"front_rgb": np.zeros((48, 64, 3), dtype=np.uint8)},
            state={"arm": self.joints, "gripper": self.opening},
        )

    def send_action(self, action: infra.Action) -> infra.Action:
        self.joints, self.opening = action.commands["arm"].value, action.commands["gripper"].value
        return action


class Reach:
    """Goes a tenth of what is left of the way to a goal with every action.

    Args:
        actions: in an answer.
    """

    goal = np.array([0.8, -0.4])  # rad

    def __init__(self, actions: int) -> None:
        self.actions, self.calls = actions, 0

    def infer(self, frame: infra.Frame, request: infra.ChunkRequest) -> list[infra.Action]:
        self.calls += 1
        joints, answer = frame.state["arm"], []
        for _ in range(self.actions):
            joints = joints + 0.1 * (self.goal - joints)
            answer.append(
                infra.Action(
                    commands={
                        "arm": infra.Command(command=infra.BuiltinCommandKind.JOINT_POSITION, value=joints),
                        "gripper": infra.Command(command=infra.BuiltinCommandKind.GRIPPER_POSITION, value=[0.5]),
                    }
                )
            )
        return answer


def main() -> None:
    arm, policy = Arm(), Reach(actions=1)
    for _ in range(40):  # without a runtime the policy is called in every step
        infra.run_step(observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=policy.infer)
    print(f"single actions: {policy.calls} inferences, joints at {arm.joints.round(2)}")

    arm, policy = Arm(), Reach(actions=10)
    with infra.InferenceRuntime(mode=infra.InferenceMode.SYNC) as runtime:
        for _ in range(40):  # the runtime plays a chunk before it asks for the next one
            result = infra.run_step(
                observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=policy.infer, runtime=runtime
            )
    print(f"chunks of 10: {policy.calls} inferences, joints at {arm.joints.round(2)}")
    print(f"the last row came from a {result.source}; {result.plan_length} step of it was left")


if __name__ == "__main__":
    main()
