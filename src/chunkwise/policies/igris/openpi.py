"""OpenPI checkpoints, by openpi's own loader where openpi is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.policies.igris.blend import exponential_blend
from chunkwise.policies.igris.documents import MissingFile, PolicyFileError

OBSERVATION = {
    "state": "proprio",
    "images/cam_head": "head",
    "images/cam_left": "left",
    "images/cam_right": "right",
}
"""What the transforms of a training configuration read -> what of a policy's input it is."""
WARMUP_PIXELS = 224


class OpenPiBatched:
    """The component type ``openpi_batched``: a trained policy of openpi, for a batch of observations.

    openpi does all of it: its transforms, normalisation with the ``norm_stats.json`` beside the weights, sampling.

    Args:
        train_config_name: openpi's training configuration.
        ckpt_dir: a checkpoint with ``model.safetensors`` and ``assets/<asset>/norm_stats.json``.
        default_prompt: the task, where an observation brings none.
        action_dim: columns of a chunk; what openpi answers beyond them is cut off.
        action_horizon: rows of a chunk.
        num_inference_steps: of the flow.
        gradient_checkpointing: a matter of training, so it must be false.
        observation: what the configuration's transforms read, ``/`` between the parts of a key -> our key.
        map_location: device.

    Raises:
        MissingExtra: openpi is not installed.
        MissingFile: there are no weights, or no statistics.
        PolicyFileError: openpi refuses the configuration or the checkpoint.
    """

    def __init__(
        self,
        train_config_name: str,
        ckpt_dir: str,
        default_prompt: str = "",
        action_dim: int = 24,
        action_horizon: int = 50,
        num_inference_steps: int = 10,
        gradient_checkpointing: bool = False,
        observation: Mapping[str, str] | None = None,
        map_location: str = "cpu",
    ) -> None:
        if gradient_checkpointing:
            raise PolicyFileError("gradient_checkpointing is for training; set it to false")
        self.action_dim, self.action_horizon = action_dim, action_horizon
        self._prompt = default_prompt
        self._observation = dict(OBSERVATION if observation is None else observation)
        folder = _checkpoint(Path(ckpt_dir).expanduser())
        config = require("openpi.training.config", extra="openpi")
        loader = require("openpi.policies.policy_config", extra="openpi")
        try:
            self._policy: Any = loader.create_trained_policy(
                config.get_config(train_config_name),
                str(folder),
                default_prompt=default_prompt or None,
                sample_kwargs={"num_steps": num_inference_steps},
                pytorch_device=map_location,
            )
        except FileNotFoundError as error:
            raise MissingFile(f"openpi checkpoint {folder}: {error}") from error
        except (KeyError, ValueError, RuntimeError) as error:
            raise PolicyFileError(f"openpi checkpoint {folder}: {type(error).__name__}: {error}") from error

    def __call__(self, obs: Mapping[str, Any], noise: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Chunks (B, action_horizon, action_dim) in the robot's units.

        Args:
            obs: ``proprio`` (B, D) float32, pictures (B, 3, H, W) uint8, and perhaps ``prompt``.
            noise: (B, rows, columns of the model) to begin from; openpi draws it by default.

        Raises:
            InterfaceValidationError: something is missing, or openpi's answer has another shape.
        """
        chunks = []
        for index in range(len(obs["proprio"])):
            begin = {} if noise is None else {"noise": noise[index]}
            chunks.append(np.asarray(self._policy.infer(self._one(obs, index), **begin)["actions"]))
        made = np.stack(chunks)
        rows, columns = self.action_horizon, self.action_dim
        if made.ndim != 3 or made.shape[1] != rows or made.shape[2] < columns:
            raise InterfaceValidationError(
                f"openpi answered {made.shape[1:]}, the component's params say action_horizon = {rows} and "
                f"action_dim = {columns}"
            )
        answer: NDArray[np.float32] = made[:, :, :columns].astype(np.float32)
        return answer

    def warmup(self) -> None:
        """One chunk from zeros, which compiles what is to be compiled."""
        pictures = np.zeros((1, 3, WARMUP_PIXELS, WARMUP_PIXELS), dtype=np.uint8)
        obs: dict[str, Any] = dict.fromkeys(self._observation.values(), pictures)
        self(
            {
                **obs,
                "proprio": np.zeros((1, self.action_dim), dtype=np.float32),
                "prompt": self._prompt or "warm up",
            }
        )

    def _one(self, obs: Mapping[str, Any], index: int) -> dict[str, Any]:
        """One observation of the batch under openpi's keys."""
        made: dict[str, Any] = {}
        for key, ours in self._observation.items():
            if ours not in obs:
                there = ", ".join(obs)
                raise InterfaceValidationError(
                    f"openpi: no {ours!r} in the observation{nearest(ours, obs)}; there are: {there}"
                )
            *parents, name = key.split("/")
            inner = made
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = np.asarray(obs[ours][index])
        prompt = obs.get("prompt") or self._prompt
        if not prompt:
            raise InterfaceValidationError(
                "openpi: no prompt; give the task, --policy.prompt, or default_prompt in the component's params"
            )
        return {**made, "prompt": prompt}


def _checkpoint(folder: Path) -> Path:
    """The folder, once its weights and statistics are there.

    openpi would take a folder without ``model.safetensors`` for one of JAX.
    """
    if not folder.is_dir():
        raise MissingFile(f"ckpt_dir: no folder {folder}")
    if not (folder / "model.safetensors").is_file():
        also = " (its params/ are weights of JAX: convert them first)" if (folder / "params").is_dir() else ""
        raise MissingFile(f"ckpt_dir: no weights {folder / 'model.safetensors'}{also}")
    if not any((folder / "assets").glob("**/norm_stats.json")):
        raise MissingFile(f"ckpt_dir: no statistics {folder / 'assets' / '<asset>' / 'norm_stats.json'}")
    return folder


class OpenPiPolicy:
    """The policy type ``openpi_policy``: one component, ``openpi_model``.

    It reads the newest state and pictures.  Under a running plan it makes its chunk without it and blends the two,
    as the IGRIS engine does; `exponential_blend` says what that is worth.

    Args:
        components: with ``openpi_model``: an ``openpi_batched``, or a graph with one in it that takes
            ``observation`` and ``noise``.
    """

    def __init__(self, components: Mapping[str, Any]) -> None:
        self._model = components["openpi_model"]
        parts = [self._model, *getattr(self._model, "parts", {}).values()]
        networks = [part for part in parts if isinstance(part, OpenPiBatched)]
        if len(networks) != 1:
            raise PolicyFileError("component 'openpi_model' must be, or hold, one openpi_batched")
        self._network = networks[0]

    def predict(self, input_data: dict[str, Any], data_normalization_interface: Any) -> NDArray[np.float32]:
        """Rows (action_horizon, action_dim); openpi normalises by itself."""
        obs = {key: value[:1] for key, value in input_data.items() if key != "prompt"}
        chunk: NDArray[np.float32] = self._model({**obs, "prompt": input_data.get("prompt", "")}, None)[0]
        return chunk

    def guided_inference(
        self,
        input_data: dict[str, Any],
        data_normalization_interface: Any,
        min_num_actions_executed: int,
        action_chunk_size: int,
    ) -> NDArray[np.float32]:
        """The same, blended with the running plan."""
        seen = {key: value for key, value in input_data.items() if key not in PLAN}
        made = self.predict(seen, data_normalization_interface)
        return exponential_blend(
            input_data["prev_action"], made, delay=input_data["est_delay"], executed=min_num_actions_executed
        )

    def warmup(self) -> None:
        """One chunk."""
        self._network.warmup()

    def freeze_all_model_params(self) -> None:
        """Nothing: openpi makes its policy for inference only."""


PLAN = ("action", "prev_action", "num_control_iters", "est_delay")
