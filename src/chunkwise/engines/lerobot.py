"""Checkpoints of LeRobot, on LeRobot's own classes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import Precision
from chunkwise.engines._exported import MANIFEST, is_exported
from chunkwise.engines._families import (
    ACTION,
    DELAY,
    IMAGES,
    NOISE,
    PREFIX,
    PREFIX_WEIGHTS,
    TOKENS_MASK,
    Family,
    family_of,
    inputs_of,
    outputs_of,
    plan_inputs,
)
from chunkwise.engines._lerobot import CONFIG, WEIGHTS, checkpoint_folder, import_lerobot
from chunkwise.engines._lerobot_guidance import Jacobian, arguments, install
from chunkwise.engines._network import Network
from chunkwise.engines._torch import import_torch, inference, to_numpy, to_torch, torch_device
from chunkwise.plugins import MissingExtra

__all__ = ["Lerobot"]

MOST_BYTES = 1 << 20
"""Of a configuration; LeRobot's have about two thousand."""
PLAN = (PREFIX, PREFIX_WEIGHTS, DELAY)
TRANSFORMERS = "pip install 'transformers>=4.57.1,<5'"
OVERRIDES: Mapping[str, Any] = {
    "pretrained_backbone_weights": None,  # everything is in the checkpoint: nothing is downloaded to be replaced
    "load_vlm_weights": False,
    "use_amp": False,  # `dtype` says it
}
"""What of a configuration is about training, or the machine that trained; in memory, never in the directory."""

log = logging.getLogger(__name__)


class Lerobot(Network):
    """One policy, from a checkpoint directory or by its id on the hub.

    Its inputs and its output are normalised: pre- and postprocessing are not the engine's part.  Nothing is kept
    between calls; a diffusion or VQ-BeT policy is given its last ``n_obs_steps`` observations every time.

    Args:
        threads: that a call may use; torch has one number of them for the whole process.
        dtype: other than float32, what `torch.autocast` computes matrix products in.
        compile: let `torch.compile` make code of it at the first call, which takes from seconds to minutes.
        seed: of everything random, drawn anew from it in every call, so that equal inputs have equal outputs;
            None for torch's own generator.  The input ``noise`` replaces the noise that a chunk begins as.
        guidance: how pi0, pi05 and smolvla continue a running plan: ``vjp``, real-time chunking as published;
            ``identity``, LeRobot's own, which leaves the Jacobian out.

    Attributes:
        policy_type: the family; "" before `load`.
        config: the checkpoint's ``config.json``.
        n_obs_steps: observations that one call reads.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        dtype: Precision = "float32",
        compile: bool = False,
        seed: int | None = None,
        guidance: Jacobian = "vjp",
    ) -> None:
        super().__init__(threads=threads, dtype=dtype)
        self._compile = compile
        self._seed = seed
        self._guidance: Jacobian = guidance
        self._policy: Any = None
        self.policy_type = ""
        self.config: Mapping[str, Any] = {}
        self.n_obs_steps = 1

    def network(self) -> Any:
        """The whole network as one `torch.nn.Module`: inputs in the order of `inputs` to the chunk, for exporting.

        Raises:
            InterfaceValidationError: a chunk of this family is no function of its inputs alone.
        """
        if self.policy_type != "act":
            raise InterfaceValidationError(
                f"a {self.policy_type or 'policy that is not loaded'} cannot be exported; only act can: "
                "one pass of one network, and nothing random"
            )
        torch, policy, names = import_torch(), self._policy, tuple(self.inputs)

        class Whole(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.model = policy.model

            def forward(self, *tensors: Any) -> Any:
                batch = dict(zip(names, tensors, strict=True))
                if policy.config.image_features:
                    batch[IMAGES] = [batch[name] for name in policy.config.image_features]
                return self.model(batch)[0]

        return Whole().eval()

    def warmup(self) -> None:
        """Run on zeros, and where a running plan can be continued, on one too."""
        super().warmup()
        if PREFIX in self.inputs:
            rows, dim = self._family.rows(self._policy.config), self._policy.config.action_feature.shape[0]
            plan: dict[str, NDArray[Any]] = {
                PREFIX: np.zeros((1, rows, dim), np.float32),
                PREFIX_WEIGHTS: np.ones((1, rows), np.float32),
                DELAY: np.ones(1, np.int64),
            }
            self.run({**self._nothing(), **plan})

    def _open(self, path: str, device: str) -> str:
        folder = checkpoint_folder(path)
        if is_exported(folder):
            raise InterfaceValidationError(f"{folder} is an exported directory; its {MANIFEST} says for what")
        config = _read_config(folder / CONFIG)
        family = family_of(config.get("type"))
        if config.get("use_peft"):
            raise InterfaceValidationError(f"{folder} is a PEFT adapter; merge it into its policy, and save that")
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}, and a policy needs its weights")
        chosen = torch_device(device)
        if family.language:
            _need_transformers(str(config["type"]))
        policy = self._make(config, family, chosen, folder)
        _load_weights(policy, weights, chosen)
        self._policy = policy.to(chosen).eval()
        if self._compile:
            self._compile_part(family)
        self._family = family
        self.policy_type, self.config, self.n_obs_steps = str(config["type"]), config, policy.config.n_obs_steps
        self.inputs, self.outputs = inputs_of(family, policy.config), outputs_of(family, policy.config)
        if family.flow and not self._compile and not getattr(policy.config, "adapt_to_pi_aloha", False):
            install(policy, self._guidance)
            self.inputs = {**self.inputs, **plan_inputs(policy.config.action_feature.shape[0])}
        return chosen

    def _call(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        batches = {len(array) for array in tensors.values()}
        if len(batches) > 1:
            sizes = ", ".join(f"{name}: {len(array)}" for name, array in tensors.items())
            raise InterfaceValidationError(f"the inputs have different batches: {sizes}")
        planned = any(name in tensors for name in PLAN)
        where = inference(self.device, self._threads, self._dtype, differentiable=planned)
        with where, self._draws():
            plan = arguments(self._policy, tensors, self._family.rows(self._policy.config), self.device)
            given = {name: to_torch(array, self.device) for name, array in tensors.items() if name not in PLAN}
            chunk = self._family.predict(self._policy, given, given.pop(NOISE, None), **plan)
        return {ACTION: to_numpy(chunk)}

    def _release(self) -> None:
        self._policy = None
        self.policy_type, self.config, self.n_obs_steps = "", {}, 1

    def _nothing(self) -> dict[str, NDArray[Any]]:
        made = super()._nothing()
        for name, feature in self._policy.config.image_features.items():
            if name in made:  # those whose size is free have one that they were trained with
                made[name] = np.zeros((*made[name].shape[:-3], *feature.shape), np.float32)
        if TOKENS_MASK in made:
            made[TOKENS_MASK][:] = True
        return made

    def _make(self, config: Mapping[str, Any], family: Family, device: str, folder: Path) -> Any:
        """A policy of LeRobot's with random weights."""
        kind = config["type"]
        factory = import_lerobot("lerobot.policies.factory")
        draccus = import_lerobot("draccus")
        configs = import_lerobot("lerobot.configs.policies").PreTrainedConfig
        import_lerobot(f"lerobot.policies.{kind}.configuration_{kind}")
        known = configs.get_choice_class(kind)
        names = {field.name for field in fields(known)}
        stripped = [name for name in config if name not in names and name != "type"]
        if stripped:
            log.warning("%s: this lerobot does not know %s; left out", folder / CONFIG, ", ".join(stripped))
        changed = {**config, **OVERRIDES, "device": device, "compile_model": self._compile_in(family)}
        try:
            decoded = draccus.decode(known, {name: value for name, value in changed.items() if name in names})
            import_lerobot(f"lerobot.policies.{kind}.modeling_{kind}")
            with redirect_stdout(sys.stderr):  # VQ-BeT prints its size, where a command may print JSON
                return factory.get_policy_class(kind)(decoded)
        except MissingExtra:
            raise
        except Exception as error:  # draccus' and LeRobot's have no common kind
            raise InterfaceValidationError(f"{folder / CONFIG} makes no {kind} policy: {error}") from error

    def _compile_in(self, family: Family) -> bool:
        """Whether LeRobot is to compile the policy itself."""
        if self._compile and not family.compiled:
            raise InterfaceValidationError("compile: a tdmpc policy plans in Python; leave it out")
        return self._compile and family.compiled == "config"

    def _compile_part(self, family: Family) -> None:
        if family.compiled != "config":
            self._policy.get_submodule(family.compiled).compile()

    @contextmanager
    def _draws(self) -> Iterator[None]:
        """Where what is random comes from the seed."""
        if self._seed is None:
            yield
            return
        torch = import_torch()
        cards = [int(self.device.partition(":")[2])] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(self._seed)
            yield


def _read_config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_BYTES:
        raise InterfaceValidationError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InterfaceValidationError(f"{path} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise InterfaceValidationError(f"{path} must be a JSON object")
    if "type" not in config:
        raise InterfaceValidationError(f"{path} has no 'type', which says what policy it is")
    return config


def _need_transformers(kind: str) -> None:
    try:
        import_lerobot("transformers")
    except MissingExtra:
        raise MissingExtra(f"{kind} policies need transformers: {TRANSFORMERS}") from None


def _load_weights(policy: Any, path: Path, device: str) -> None:
    """Every weight of the policy from the file, and nothing in the file but these.

    Raises:
        InterfaceValidationError: the file is damaged, or has not exactly the policy's weights.
    """
    safetensors = import_lerobot("safetensors.torch")
    try:
        given = safetensors.load_file(path, device=device)
    except Exception as error:  # a SafetensorError, or whatever of the file system's
        raise InterfaceValidationError(f"{path} is no safetensors file: {error}") from error
    renamed = getattr(policy, "_fix_pytorch_state_dict_keys", None)
    if renamed is not None:  # pi0 and pi05: openpi's names, which LeRobot's own loader renames in the same way
        given = renamed(given, policy.config)
        given = {name if name.startswith("model.") else f"model.{name}": value for name, value in given.items()}
    try:
        missing, unknown = policy.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise InterfaceValidationError(f"{path} does not fit its {CONFIG}: {error}") from error
    own = policy.state_dict()
    filled = {own[name].data_ptr() for name in given if name in own}  # weights that share memory are saved once
    lacking = [name for name in missing if own[name].data_ptr() not in filled]
    for what, listed in (("lacks", lacking), ("has, unknown to the policy,", unknown)):
        if listed:
            some = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
            raise InterfaceValidationError(f"{path} {what} {some}; it is of another policy than {CONFIG} says")
