"""How long does the policy take, do its chunks carry that, and which mode should it run in?

    python examples/05_profile_inference_latency.py [FOLDER]

Writes ``inference_profile.json`` and ``async_buffer_trace.json`` into the folder (default: ``profiles``).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import chunkwise as infra

TARGET_HZ = 50.0


class Arm:
    """A robot of six joints that stands still."""

    def get_obs(self) -> infra.Frame:
        return infra.Frame(images={"front_rgb": np.zeros((48, 64, 3), np.uint8)}, state={"arm": np.zeros(6)})

    def send_action(self, action: infra.Action) -> infra.Action:
        return action


class SlowPolicy:
    """Answers a number of actions after 40 ms, as a network on a GPU would."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def infer(self, frame: infra.Frame, request: infra.ChunkRequest) -> list[infra.Action]:
        time.sleep(0.040)
        return [
            infra.Action.single(
                target="arm",
                command=infra.BuiltinCommandKind.JOINT_POSITION,
                value=frame.state["arm"] + 0.01 * step,
            )
            for step in range(self.actions)
        ]


def main(folder: Path) -> None:
    arm = Arm()
    for actions in (30, 4):
        verdict = infra.recommend_inference_mode(
            observe_fn=arm.get_obs,
            act_fn=arm.send_action,
            act_src_fn=SlowPolicy(actions).infer,
            target_hz=TARGET_HZ,
            output_path=folder / "inference_profile.json" if actions == 30 else None,
        )
        profile = verdict.profile
        print(f"chunks of {actions}: run {verdict.recommended_mode.upper()} at {TARGET_HZ:g} Hz")
        print(f"  {verdict.reason}.")
        if profile.async_buffer_trace is not None:
            trace = profile.async_buffer_trace
            print(f"  simulated: the plan runs dry in {trace.underrun_steps} of {len(trace.steps)} steps")
            if actions == 30:
                profile.write_async_buffer_trace_json(folder / "async_buffer_trace.json")
    print(f"written: {folder / 'inference_profile.json'}, {folder / 'async_buffer_trace.json'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "profiles"))
