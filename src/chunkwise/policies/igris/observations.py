"""What a policy sees: state and pictures of the present and of control steps before it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ChunkRequest
from chunkwise.processing.igris import RuntimeParams

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sight:
    """One observation.

    Attributes:
        proprio: (state_dim,) float32.
        pictures: camera -> (3, H, W) uint8 RGB.
    """

    proprio: Float32
    pictures: dict[str, NDArray[np.uint8]]


class History:
    """What one conversation has seen, by control step, as far back as its policy looks.

    A policy is asked now and then, not at every step.  A step without an observation counts as the last one before
    it, and what lies before the first as the first: the axis of time stays true, and nothing is made up of zeros.

    Args:
        params: how far back.
    """

    def __init__(self, params: RuntimeParams) -> None:
        self._params = params
        self._span = max(params.proprio_history_size - 1, (params.num_img_obs - 1) * params.img_obs_every)
        self._steps: list[int] = []
        self._seen: list[Sight] = []

    def clear(self) -> None:
        """Forget everything: an episode begins."""
        self._steps.clear()
        self._seen.clear()

    def input_data(self, step: int, sight: Sight) -> dict[str, Any]:
        """Add what is seen at `step`, and give the observation as `PolicyProtocol` describes it.

        A step that was there before begins again from there.
        """
        at = bisect_right(self._steps, step - 1)
        self._steps[at:], self._seen[at:] = [step], [sight]
        oldest = max(bisect_right(self._steps, step - self._span) - 1, 0)
        del self._steps[:oldest], self._seen[:oldest]
        params = self._params
        made: dict[str, Any] = {
            "proprio": np.stack([self._at(step - back).proprio for back in range(params.proprio_history_size)])
        }
        frames = [self._at(step - back * params.img_obs_every) for back in range(params.num_img_obs)]
        for name in params.camera_names:
            made[name] = np.stack([frame.pictures[name] for frame in frames])
        return made

    def _at(self, step: int) -> Sight:
        return self._seen[max(bisect_right(self._steps, step) - 1, 0)]


def running_plan(request: ChunkRequest, rows: int) -> dict[str, Any]:
    """The entries of `PolicyProtocol.guided_inference` about the plan that a request shares.

    The delay never exceeds what is left of the plan (``d <= H - s``), and past its end the plan's last row
    repeats: a policy that keeps those rows keeps the robot where the plan leaves it.

    Args:
        request: with a prefix of at least one row.
        rows: of a chunk (``H``).
    """
    assert request.prefix is not None
    plan = np.asarray(request.prefix, dtype=np.float32)[:rows]
    executed = rows - len(plan)
    delay = request.latency_steps if request.inference_delay is None else request.inference_delay
    return {
        "prev_action": np.concatenate([plan, np.repeat(plan[-1:], executed, axis=0)]),
        "action": np.concatenate([np.repeat(plan[:1], executed, axis=0), plan]),
        "num_control_iters": executed,
        "est_delay": min(max(int(delay), 0), len(plan)),
    }
