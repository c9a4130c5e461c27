"""The loop keeps 50 Hz while the policy thinks for 60 ms beside it, and goes on when the policy fails once.

python examples/02_async_inference.py
"""

from __future__ import annotations

import time

import numpy as np

import chunkwise as infra

STEPS = 100


class Arm:
    """Two joints; remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def get_obs(self) -> infra.Frame:
        return infra.Frame(state={"arm": np.full(2, self.told[-1] if self.told else 0.0)})

    def send_action(self, action: infra.Action) -> infra.Action:
        self.told.append(float(action.commands["arm"].value[0]))
        return action


class Swing:
    """A slow swing by the number of the step, after 60 ms; one of its inferences fails."""

    def __init__(self) -> None:
        self.requests: list[infra.ChunkRequest] = []

    def infer(self, frame: infra.Frame, request: infra.ChunkRequest) -> list[infra.Action]:
        self.requests.append(request)
        time.sleep(0.060)
        if len(self.requests) == 10:
            raise OSError("the GPU is busy")
        angles = 0.3 * np.sin(0.05 * (request.request_step + np.arange(20)))
        return [
            infra.Action.single(target="arm", command="joint_position", value=np.full(2, angle))
            for angle in angles
        ]


def main() -> None:
    arm, policy = Arm(), Swing()
    runtime = infra.InferenceRuntime(
        mode=infra.InferenceMode.ASYNC,
        steps_before_request=0,
        warmup_requests=1,
        profile_delay_requests=3,
        realtime_controller=infra.RealtimeController(hz=50.0),
        ensemble_weight=(0.2, 0.8),
        inference_timeout_s=0.5,
    )
    with runtime:
        runtime.bootstrap_async(observe_fn=arm.get_obs, act_src_fn=policy.infer)
        began = time.perf_counter()
        results = [
            infra.run_step(
                observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=policy.infer, runtime=runtime
            )
            for _ in range(STEPS)
        ]
        took_s = time.perf_counter() - began
    errors = [result.error for result in results if result.error is not None]
    print(f"{STEPS} steps at {STEPS / took_s:.1f} Hz, {len(policy.requests)} inferences of 60 ms")
    print(f"delay: {results[-1].latency_steps} steps; holds: {sum(result.underrun for result in results)}")
    print(f"largest step of the command: {np.abs(np.diff(arm.told)).max():.4f} rad")
    print(f"errors that cost no step: {errors}")


if __name__ == "__main__":
    main()
