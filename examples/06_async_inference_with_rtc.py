"""Real-time chunking: requests carry the running plan, and a policy with two right ways stays on the one it is on.

python examples/06_async_inference_with_rtc.py
"""

from __future__ import annotations

import time

import numpy as np

import chunkwise as infra

STEPS, ROWS = 60, 16


class Arm:
    """One joint; remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def get_obs(self) -> infra.Frame:
        return infra.Frame(state={"arm": np.zeros(1)})

    def send_action(self, action: infra.Action) -> infra.Action:
        self.told.append(float(action.commands["arm"].value[0]))
        return action


class TwoWays:
    """Left or right of an obstacle are both right; which one it answers is chance, unless it is told the plan."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng(5)
        self.last: infra.ChunkRequest | None = None

    def infer(self, frame: infra.Frame, request: infra.ChunkRequest) -> list[infra.Action]:
        self.last = request
        time.sleep(0.045)
        way = self.chance.choice([-0.5, 0.5])
        if request.rtc_args is not None:
            # The rows that will have run when this answer arrives are these; it has to go on from them.
            delay = request.rtc_args.inference_delay
            way = request.rtc_args.prev_action_chunk[delay].commands["arm"].value[0]
        return [infra.Action.single(target="arm", command="joint_position", value=[way]) for _ in range(ROWS)]


def run(**options: object) -> tuple[list[float], infra.ChunkRequest]:
    """The commands of a run with these options, and its last request."""
    arm, policy = Arm(), TwoWays()
    with infra.InferenceRuntime(mode="async", control_hz=50.0, steps_before_request=2, **options) as runtime:
        for _ in range(STEPS):
            infra.run_step(
                observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=policy.infer, runtime=runtime
            )
    assert policy.last is not None
    return arm.told, policy.last


def main() -> None:
    told, _ = run()
    print(f"without hints: {np.count_nonzero(np.diff(told))} jumps from one way to the other")
    told, request = run(enable_rtc=True, execution_steps=8)
    print(f"with hints: {np.count_nonzero(np.diff(told))} jumps")
    assert request.prev_action_chunk is not None
    print(
        f"the last request, at step {request.request_step}: {len(request.prev_action_chunk)} actions of the plan, "
        f"delay {request.inference_delay}, horizon {request.execute_horizon}"
    )


if __name__ == "__main__":
    main()
