"""How LeRobot's flow policies continue the running plan: by LeRobot's own guidance, or the exact one in its place.

LeRobot's pi0, pi05 and smolvla take three arguments beside the batch, ``inference_delay``,
``prev_chunk_left_over`` and ``execution_horizon``, and hand each Euler step to an object with a ``denoise_step``.
LeRobot's own, the `RTCProcessor`, leaves the Jacobian of the network out; :class:`ExactGuidance` takes its place
and does not.

LeRobot's flow time runs from noise at 1 to the chunk at 0, and its velocity is noise minus chunk.

Source:
    Black, Galliker, Levine 2025, "Real-Time Execution of Action Chunking Flow Policies",
    https://arxiv.org/abs/2506.07339; the arguments are those of https://github.com/huggingface/lerobot, 0.4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chunkwise.chunking.weights import Schedule, prefix_weights
from chunkwise.contract import InterfaceValidationError
from chunkwise.engines._families import DELAY, PREFIX, PREFIX_WEIGHTS
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.engines._torch import import_torch, to_torch
from chunkwise.sampling.flow import guidance_weight

Array = NDArray[Any]
Jacobian = Literal["vjp", "identity"]
TOLERANCE = 1e-5
"""Between the weights of a request, float32, and those of a schedule."""


class ExactGuidance:
    """Guides each Euler step by the true vector-Jacobian product; in the place of LeRobot's `RTCProcessor`.

    Args:
        beta: bound of the guidance weight.

    Attributes:
        schedule: how the weights of the next chunk fall.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self.schedule: Schedule = "exp"

    def is_debug_enabled(self) -> bool:
        """LeRobot asks; nothing is kept of a step here."""
        return False

    def denoise_step(
        self,
        x_t: Any,
        prev_chunk_left_over: Any,
        inference_delay: int | None,
        time: float,
        original_denoise_step_partial: Callable[[Any], Any],
        execution_horizon: int | None = None,
    ) -> Any:
        """LeRobot's velocity (B, H, A), guided.

        Args:
            x_t: (B, H, A), A being the network's own width.
            prev_chunk_left_over: the running plan (B, L, a), a at most A; None for no guidance.
            inference_delay: of its rows that will have run (d).
            time: from 1 to 0.
            original_denoise_step_partial: x_t to its velocity.
            execution_horizon: rows of the plan that bind; L by default.
        """
        if prev_chunk_left_over is None:
            return original_denoise_step_partial(x_t)
        torch = import_torch()
        plan = prev_chunk_left_over
        end = min(plan.shape[1] if execution_horizon is None else execution_horizon, plan.shape[1], x_t.shape[1])
        target, weights = torch.zeros_like(x_t), torch.zeros_like(x_t)
        target[:, :end, : plan.shape[2]] = plan[:, :end]
        mask = prefix_weights(inference_delay or 0, end, self.schedule).astype(np.float32)
        weights[:, :end, : plan.shape[2]] = to_torch(mask, x_t.device)[None, :, None]  # nothing binds what pads
        with torch.enable_grad():
            x = x_t.detach().clone().requires_grad_(True)
            v = original_denoise_step_partial(x)
        error = (target - (x.detach() - time * v.detach())) * weights
        (pulled,) = torch.autograd.grad(v, x, error)
        return v.detach() - guidance_weight(1.0 - time, self._beta) * (error - time * pulled)


def install(policy: Any, jacobian: Jacobian) -> None:
    """Let a policy of LeRobot's take the arguments of real-time chunking; without them it answers as before."""
    configuration = import_lerobot("lerobot.policies.rtc.configuration_rtc")
    steps = getattr(policy.config, "num_steps", None) or policy.config.num_inference_steps
    policy.config.rtc_config = configuration.RTCConfig(enabled=True, max_guidance_weight=float(steps))
    policy.init_rtc_processor()
    if jacobian == "vjp":
        policy.rtc_processor = policy.model.rtc_processor = ExactGuidance(float(steps))
    policy.requires_grad_(False)


def arguments(policy: Any, tensors: Mapping[str, Array], rows: int, device: str) -> dict[str, Any]:
    """LeRobot's arguments for a running plan, and its schedule set to the one that the plan's weights are of.

    Args:
        policy: after `install`.
        tensors: the engine's inputs; `PREFIX`, `PREFIX_WEIGHTS` and `DELAY` are used.
        rows: of a chunk; more of the plan bind nothing.
        device: of the policy.

    Returns:
        Nothing where there is no plan.

    Raises:
        InterfaceValidationError: a part is missing, or it is nothing that LeRobot can be told.
    """
    given = [name for name in (PREFIX, PREFIX_WEIGHTS, DELAY) if name in tensors]
    if not given:
        return {}
    if len(given) < 3:
        raise InterfaceValidationError(f"a running plan is {PREFIX}, {PREFIX_WEIGHTS} and {DELAY}; got {given}")
    plan, weights, delays = tensors[PREFIX][:, :rows], tensors[PREFIX_WEIGHTS][:, :rows], tensors[DELAY]
    if len(np.unique(delays)) > 1 or (weights != weights[:1]).any():
        raise InterfaceValidationError("LeRobot guides a whole batch alike: one delay, and the same weights")
    if weights.shape[1] != plan.shape[1]:
        raise InterfaceValidationError(
            f"{PREFIX_WEIGHTS} has {weights.shape[1]} rows, {PREFIX} has {plan.shape[1]}"
        )
    delay = int(delays[0])
    schedule, end = _schedule_of(weights[0], delay)
    _set_schedule(policy.rtc_processor, schedule)
    return {
        "prev_chunk_left_over": to_torch(plan, device),
        "inference_delay": delay,
        "execution_horizon": end,
    }


def _schedule_of(weights: Array, delay: int) -> tuple[Schedule, int]:
    """The schedule that weights (L,) are of, and where it ends."""
    for end in range(len(weights), -1, -1):
        for schedule in get_args(Schedule):
            mask = np.zeros(len(weights))
            mask[:end] = prefix_weights(max(delay, 0), end, schedule)
            if np.abs(mask - weights).max(initial=0.0) <= TOLERANCE:
                return schedule, end
    raise InterfaceValidationError(
        f"{PREFIX_WEIGHTS} are of none of LeRobot's schedules ({', '.join(get_args(Schedule))}) at delay {delay}: "
        f"{np.round(weights, 3).tolist()!r:.200}"
    )


def _set_schedule(processor: Any, schedule: Schedule) -> None:
    if isinstance(processor, ExactGuidance):
        processor.schedule = schedule
    else:
        words = import_lerobot("lerobot.configs.types").RTCAttentionSchedule
        processor.rtc_config.prefix_attention_schedule = words(schedule.upper())
