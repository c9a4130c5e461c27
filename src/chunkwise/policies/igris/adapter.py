"""A policy of the IGRIS engine as a policy here."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.contract.errors import nearest
from chunkwise.contract.images import ImageRule
from chunkwise.contract.values import Array
from chunkwise.engines import Precision
from chunkwise.policies.igris.build import build_policy, read_policy_file
from chunkwise.policies.igris.columns import Part, parse_parts, parts_of, require_width
from chunkwise.policies.igris.normalisation import Normalisation, read_statistics
from chunkwise.policies.igris.observations import History, Sight, running_plan
from chunkwise.policies.igris.parameters import read_runtime_params
from chunkwise.processing.images import fit

PARAMS_FILE = "inference_runtime_params.json"


class Igris:
    """A policy of `PolicyProtocol`, built from its YAML.

    A request that shares the running plan (``--strategy rtc``) is answered by ``guided_inference``, any other
    (``--strategy sync``) by ``predict``.  Missing state, cameras, weights and statistics are errors by name.

    Args:
        config: policy YAML.
        params: runtime-parameters JSON; ``inference_runtime_params.json`` beside the YAML by default.
        state_keys: what the columns of ``proprio`` are, in order: names in the robot's state, each with the number
            of its columns where no robot says it (``force:3``).  By default the robot's components in order.
        action_keys: the components that a row commands, in order: ``NAME``, ``NAME:COLUMNS``, ``NAME:KIND`` or
            ``NAME:COLUMNS:KIND``.  By default the components among `state_keys`, each with its first kind.
        cameras: the robot's name of a camera for the policy's, where they differ: ``head=cam_high``.
        prompt: the task, where an observation brings none.
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``auto``.
        dtype: other than float32 computes in it where torch can (autocast).
        threads: of torch; one leaves the cores to the control loop.
        untrained: let layers that no weights were loaded into run with random ones.

    Raises:
        InterfaceValidationError: a file, key, value or name is wrong or missing; the message names it.
        MissingExtra: a component needs a package that is not installed.
        DeviceError: there is no such device.
    """

    def __init__(
        self,
        *,
        config: Path,
        params: Path | None = None,
        state_keys: tuple[str, ...] = (),
        action_keys: tuple[str, ...] = (),
        cameras: tuple[str, ...] = (),
        prompt: str = "",
        device: str = "cpu",
        dtype: Precision = "float32",
        threads: int = 1,
        untrained: bool = False,
    ) -> None:
        config = Path(config)
        self.name = read_policy_file(config).type
        self.params = read_runtime_params(params or config.parent / PARAMS_FILE)
        self._prompt, self._precision, self._threads = prompt, dtype, threads
        self._cameras = _cameras(cameras, self.params.camera_names)
        self._rule = ImageRule(self.params.image_height, self.params.image_width, "stretch", interpolation="area")
        self._device = device if device == "cpu" else _torch_device(device)
        stats = self.params.norm_stats
        statistics = read_statistics(Path(stats)) if stats else None
        self._digest = "" if statistics is None else statistics.digest()
        self._normalisation = Normalisation(statistics)
        self.policy: Any = build_policy(config, map_location=self._device, untrained=untrained)
        if hasattr(self.policy, "to"):
            self.policy.to(self._device)
        if hasattr(self.policy, "eval"):
            self.policy.eval()
        self._history = History(self.params)
        state, actions = parse_parts(state_keys, "state_keys"), parse_parts(action_keys, "action_keys")
        self._asked_for = state, actions
        self._state: tuple[Part, ...] = ()
        self.spec: PolicySpec | None = None
        if state and actions and all(part.columns for part in (*state, *actions)):  # no robot needs to be met
            self._bind(state, actions)

    def meet(self, robot: RobotSpec) -> None:
        """Take the widths of state and actions from the robot, and the default order of its components.

        Raises:
            InterfaceValidationError: a name is not the robot's, or the widths are not the policy's.
        """
        known = {component.name: component.dof for component in robot.components}
        state, actions = self._asked_for
        own = tuple(Part(name, columns) for name, columns in known.items())
        state = parts_of(state or own, known, "state_keys", robot.all_state_keys())
        named = tuple(Part(part.name, part.columns) for part in state if part.name in known)
        actions = parts_of(actions or named, known, "action_keys", list(known))
        kinds = {component.name: component.command[0] for component in robot.components}
        self._bind(state, tuple(part.of_kind(kinds[part.name]) for part in actions))

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """Rows (action_chunk_size, action_dim) from the request's step on, in the robot's units.

        Raises:
            InterfaceValidationError: the observation lacks something, or the policy's answer is no chunk.
        """
        if self.spec is None:
            raise InterfaceValidationError(
                f"policy {self.name!r}: nobody said which robot it drives: give state_keys and action_keys with "
                "their columns, as in left_arm:6,right_arm:6"
            )
        data = self._history.input_data(request.request_step, self._sight(frame))
        prompt = frame.task.get("prompt") or self._prompt
        if prompt:
            data["prompt"] = str(prompt)
        rows, guided = self.params.action_chunk_size, request.prefix is not None and len(request.prefix) > 0
        with self._computing():
            if guided:
                data |= running_plan(request, rows)
                answer = self.policy.guided_inference(data, self._normalisation, data["num_control_iters"], rows)
            else:
                answer = self.policy.predict(data, self._normalisation)
        return ActionChunk(self._checked(answer, "guided_inference" if guided else "predict"))

    def warmup(self) -> None:
        """The policy's own.

        Raises:
            PolicyFailed: it raised.
        """
        try:
            with self._computing():
                self.policy.warmup()
        except Exception as error:
            raise PolicyFailed(f"policy {self.name!r}: warmup() raised {type(error).__name__}: {error}") from error

    def reset(self) -> None:
        """Forget what was seen; a policy that remembers more is told by its own ``reset``."""
        self._history.clear()
        if hasattr(self.policy, "reset"):
            self.policy.reset()

    def session(self) -> Igris:
        """Another one with the same weights, which has seen nothing.

        Raises:
            InterfaceValidationError: the policy says by ``reset`` that it remembers, and has no ``session``.
        """
        other = copy.copy(self)
        other._history = History(self.params)
        if hasattr(self.policy, "session"):
            other.policy = self.policy.session()
        elif hasattr(self.policy, "reset"):
            raise InterfaceValidationError(
                f"policy {self.name!r} has reset() and no session(): it remembers its robot, so it cannot serve "
                "several; add session(), another conversation with the same weights"
            )
        return other

    def close(self) -> None:
        """Let go of what was seen."""
        self._history.clear()

    def _bind(self, state: Sequence[Part], actions: Sequence[Part]) -> None:
        params = self.params
        require_width(state, params.proprio_state_dim, "state_keys", "proprio_state_dim")
        require_width(actions, params.action_dim, "action_keys", "action_dim")
        self._state = tuple(state)
        pictures = [self._cameras[name] for name in params.camera_names]
        self.spec = PolicySpec(
            self.name,
            pictures,
            [part.name for part in state],
            outputs=[PolicyOutputSpec(part.name, part.kind or "joint_position", part.columns) for part in actions],
            meta={"max_delta_deg": params.max_delta_deg, "policy_update_period": params.policy_update_period},
            action_horizon=params.action_chunk_size,
            control_hz=params.control_hz,
            supports_prefix=True,
            images=dict.fromkeys(pictures, self._rule),
            normalisation=self._digest,
        )

    def _sight(self, frame: Frame) -> Sight:
        values = [_present(frame.state, part.name, "state") for part in self._state]
        for part, value in zip(self._state, values, strict=True):
            if value.shape != (part.columns,):
                raise InterfaceValidationError(
                    f"state {part.name!r} has shape {value.shape}, policy {self.name!r} needs ({part.columns},)"
                )
            if not np.isfinite(value).all():
                raise InterfaceValidationError(f"state {part.name!r} holds a number that is not finite: {value}")
        pictures = {}
        for name, camera in self._cameras.items():
            image = _present(frame.images, camera, "camera")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise InterfaceValidationError(
                    f"camera {camera!r}: needs (height, width, 3) uint8 RGB, has {image.shape} {image.dtype}"
                )
            pictures[name] = np.ascontiguousarray(fit(image, self._rule).transpose(2, 0, 1))
        return Sight(np.concatenate(values, dtype=np.float32), pictures)

    def _checked(self, answer: object, method: str) -> Array:
        """The answer of a method as rows of its own."""
        where = f"policy {self.name!r}: {method}()"
        shape = (self.params.action_chunk_size, self.params.action_dim)
        if "torch" in sys.modules and isinstance(answer, sys.modules["torch"].Tensor):
            answer = answer.detach().float().cpu().numpy()
        if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "iuf":
            raise InterfaceValidationError(
                f"{where} returned {type(answer).__name__}; it answers an array or tensor {shape}"
            )
        rows = answer[0] if answer.ndim == 3 and len(answer) == 1 else answer
        if rows.shape != shape:
            raise InterfaceValidationError(
                f"{where} returned shape {answer.shape}, the runtime parameters say {shape}: action_chunk_size "
                "rows of action_dim columns"
            )
        made: Array = np.array(rows, dtype=np.float64)
        if not np.isfinite(made).all():
            row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(made)))
            raise InterfaceValidationError(f"{where} returned {made[row, column]} in row {row}, column {column}")
        return made

    def _computing(self) -> AbstractContextManager[None]:
        """Torch's threads, precision and no gradients; nothing where the policy is not torch's."""
        if "torch" not in sys.modules:
            return nullcontext()
        from chunkwise.engines._torch import inference

        return inference(self._device, self._threads, self._precision)


def _torch_device(device: str) -> str:
    from chunkwise.engines._torch import torch_device

    return torch_device(device)


def _cameras(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The policy's name of each camera -> the robot's."""
    cameras = {name: name for name in names}
    for item in given:
        name, equals, camera = item.partition("=")
        if not equals or not camera or name not in cameras:
            raise InterfaceValidationError(
                f"cameras: {item!r} must be NAME=ROBOT_CAMERA{nearest(name, names)}; camera_names are: "
                f"{', '.join(names) or 'none'}"
            )
        cameras[name] = camera
    return cameras


def _present(values: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in values:
        there = ", ".join(values) or "none"
        raise InterfaceValidationError(
            f"the observation has no {what} {name!r}{nearest(name, values)}; there are: {there}"
        )
    return values[name]
