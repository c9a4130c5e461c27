"""LeRobot's families of policies: what each reads, and how it is asked for a chunk without any of its queues.

LeRobot's own `select_action` keeps observations and actions from call to call.  Here nothing is kept: a family
that reads a history is given all of it, (B, n_obs_steps, ...), the newest last; what comes back is the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.engines import TensorSpec
from chunkwise.engines._torch import import_torch

STATE, IMAGES = "observation.state", "observation.images"
TOKENS, TOKENS_MASK = "observation.language.tokens", "observation.language.attention_mask"
ACTION, NOISE = "action", "noise"
PREFIX, PREFIX_WEIGHTS, DELAY = "prefix", "prefix_weights", "inference_delay"
"""The running plan: rows (B, L, dim), normalised as the actions are; what each binds (B, L), in [0, 1]; and how
many of them will have run when the chunk arrives, (B,)."""
Predict = Callable[..., Any]
"""A policy of LeRobot's, its inputs as tensors by name, and the noise or None, to a chunk (B, rows, dim).  A flow
takes LeRobot's arguments of real-time chunking too."""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of policy.

    Attributes:
        predict: how it is asked.
        rows: of a chunk, from LeRobot's configuration.
        history: whether it reads the last ``n_obs_steps`` observations, not the newest alone.
        language: whether it reads a task, as tokens; such families also resize images themselves.
        state: whether it reads ``observation.state``; pi05 has it in its tokens.
        noise: names in the configuration of the noise's two sizes, where a chunk is made from noise; "" for the
            action's own.
        flow: whether a chunk is a flow's, and can be made to continue the running plan.
        compiled: the part of the policy that `torch.compile` takes; "config" where LeRobot does it itself.
    """

    predict: Predict
    rows: Callable[[Any], int]
    history: bool = False
    language: bool = False
    state: bool = True
    noise: tuple[str, str] | None = None
    flow: bool = False
    compiled: str = ""


def family_of(name: object) -> Family:
    """The family of that name.

    Raises:
        InterfaceValidationError: there is none here.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        there = ", ".join(FAMILIES)
        raise InterfaceValidationError(
            f"no policy type {name!r}{nearest(str(name), FAMILIES)}; there are: {there}"
        )
    return FAMILIES[name]


def inputs_of(family: Family, config: Any) -> dict[str, TensorSpec]:
    """What a policy reads, from LeRobot's configuration, in its order."""
    before: tuple[int | None, ...] = (None, config.n_obs_steps) if family.history else (None,)
    specs = {}
    for name, feature in config.input_features.items():
        if name.startswith(f"{IMAGES}.empty_camera") or (name == STATE and not family.state):
            continue
        image = feature.type.name == "VISUAL"
        shape = (feature.shape[0], None, None) if image and family.language else tuple(feature.shape)
        specs[name] = TensorSpec((*before, *shape), "float32")
    if family.language:
        length = config.tokenizer_max_length
        specs[TOKENS] = TensorSpec((None, length), "int64")
        specs[TOKENS_MASK] = TensorSpec((None, length), "bool")
    if family.noise is not None:
        rows, width = family.noise
        dim = config.action_feature.shape[0] if width == "" else getattr(config, width)
        specs[NOISE] = TensorSpec((None, getattr(config, rows), dim), "float32", optional=True)
    return specs


def outputs_of(family: Family, config: Any) -> dict[str, TensorSpec]:
    """What a policy answers: a chunk."""
    return {ACTION: TensorSpec((None, family.rows(config), config.action_feature.shape[0]), "float32")}


def plan_inputs(dim: int) -> dict[str, TensorSpec]:
    """What a network that can continue the running plan reads of it; without it a chunk is made alone."""
    return {
        PREFIX: TensorSpec((None, None, dim), "float32", optional=True),
        PREFIX_WEIGHTS: TensorSpec((None, None), "float32", optional=True),
        DELAY: TensorSpec((None,), "int64", optional=True),
    }


def _act(policy: Any, batch: dict[str, Any], noise: Any) -> Any:
    return policy.predict_action_chunk(batch)


def _diffusion(policy: Any, batch: dict[str, Any], noise: Any) -> Any:
    return policy.diffusion.generate_actions(_cameras_stacked(policy, batch), noise=noise)


def _vqbet(policy: Any, batch: dict[str, Any], noise: Any) -> Any:
    return policy.vqbet(_cameras_stacked(policy, batch), rollout=True)[:, : policy.config.action_chunk_size]


def _tdmpc(policy: Any, batch: dict[str, Any], noise: Any) -> Any:
    """Plans without the plan before it, which LeRobot keeps to begin the next one with."""
    config = policy.config
    seen = {name: batch[name] for name in batch if name not in config.image_features}
    if config.image_features:
        seen = {"observation.image": batch[next(iter(config.image_features))], **seen}
    latent = policy.model.encode(seen)
    policy._prev_mean = None
    rows = policy.plan(latent) if config.use_mpc else policy.model.pi(latent).unsqueeze(0)  # (rows, B, dim)
    policy._prev_mean = None
    if config.n_action_repeats > 1:
        rows = rows[:1].repeat(config.n_action_repeats, 1, 1)
    return rows.clamp(-1, 1).transpose(0, 1)


def _language(policy: Any, batch: dict[str, Any], noise: Any, **plan: Any) -> Any:
    return policy.predict_action_chunk(batch, noise=noise, **plan)


def _cameras_stacked(policy: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """All cameras as one tensor (B, n_obs_steps, cameras, C, H, W)."""
    cameras = policy.config.image_features
    stacked = {name: value for name, value in batch.items() if name not in cameras}
    if cameras:
        stacked[IMAGES] = import_torch().stack([batch[name] for name in cameras], dim=-4)
    return stacked


def _tdmpc_rows(config: Any) -> int:
    if config.n_action_repeats > 1:
        return int(config.n_action_repeats)
    return int(config.horizon) if config.use_mpc else 1


def _vla(*, state: bool = True) -> Family:
    sizes = ("chunk_size", "max_action_dim")
    return Family(_language, _chunk_size, language=True, state=state, noise=sizes, flow=True, compiled="config")


def _chunk_size(config: Any) -> int:
    return int(config.chunk_size)


FAMILIES = {
    "act": Family(_act, _chunk_size, compiled="model"),
    "diffusion": Family(
        _diffusion,
        lambda config: int(config.n_action_steps),
        history=True,
        noise=("horizon", ""),
        compiled="diffusion.unet",
    ),
    "vqbet": Family(_vqbet, lambda config: int(config.action_chunk_size), history=True, compiled="vqbet"),
    "tdmpc": Family(_tdmpc, _tdmpc_rows),
    "smolvla": _vla(),
    "pi0": _vla(),
    "pi05": _vla(state=False),
}
