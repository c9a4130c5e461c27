"""Velocity fields of torch: a function, or an object that is called like one.

::

    class Mine(torch.nn.Module):
        row_times = False                            # True for one that is trained to continue a prefix

        def encode(self, observation): ...           # may be left out: tensors by name to whatever `forward` wants
        def forward(self, x, t, known): ...          # (B, H, A), (B, 1) or (B, H), known -> velocity (B, H, A)

Flow time runs from noise at 0 to the chunk at 1, and the velocity is chunk minus noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._torch import import_torch, inference, to_numpy, to_torch, torch_device

Array = NDArray[Any]
Call = Callable[[Any, Any, Any], Any]


class TorchVelocity:
    """A velocity field in torch; see `chunkwise.policies._flow_sampling.Velocity`.

    Its parameters are frozen, and what `encode` makes is a constant to the backward pass.

    Args:
        call: ``v(x, t, known)``.
        inputs: what it reads of an observation.
        rows, dim: of a chunk.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        threads: of the processor; torch has one number of them for the whole process.
    """

    pulls = True

    def __init__(
        self,
        call: Call,
        inputs: Mapping[str, TensorSpec],
        rows: int,
        dim: int,
        *,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.inputs: Mapping[str, TensorSpec] = dict(inputs)
        self.rows, self.dim = rows, dim
        self.row_times = bool(getattr(call, "row_times", False))
        self.device = torch_device(device)
        self._threads = threads
        self.call: Call | None = frozen(call, self.device)

    def condition(self, observation: Mapping[str, Array]) -> TorchField:
        """The field for a batch of observations, each (B, ...); `encode` runs here, once."""
        if self.call is None:
            raise RuntimeError("no model is loaded: it was closed")
        with self.computing():
            known = encoded(self.call, {name: to_torch(array, self.device) for name, array in observation.items()})
        return TorchField(self, self.call, known)

    def computing(self) -> AbstractContextManager[None]:
        """Where it is computed: no gradients but those that are asked for."""
        return inference(self.device, self._threads, "float32", differentiable=True)

    def close(self) -> None:
        self.call = None


class TorchField:
    """A velocity field and its observation; see `chunkwise.sampling.flow.Field`."""

    def __init__(self, owner: TorchVelocity, call: Call, known: Any) -> None:
        self._owner, self._call, self._known = owner, call, known

    def velocity(self, x: Array, tau: float | Array) -> Array:
        with self._owner.computing():
            return self._checked(self._call(self._tensor(x), self._tensor(self._times(x, tau)), self._known), x)

    def pull(self, x: Array, tau: float, target: Array, weights: Array) -> tuple[Array, Array, Array]:
        with self._owner.computing():
            rows, times, plan, bound = map(self._tensor, (x, self._times(x, tau), target, weights))
            v, error, pulled = pull(self._call, rows, times, plan, bound, self._known)
            if not pulled.any():
                self._see_that_recorded(rows, times, v)
        return self._checked(v, x), to_numpy(error), to_numpy(pulled)

    def _see_that_recorded(self, x: Any, t: Any, v: Any) -> None:
        """A field without gradients would be guided as by 'identity', and nobody would know."""
        torch = import_torch()
        with torch.enable_grad():
            recorded = self._call(x.detach().requires_grad_(True), t, self._known).requires_grad
        if not recorded and not torch.equal(self._call(x + 1.0, t, self._known), v):
            raise InterfaceValidationError(
                "the velocity depends on x, and torch cannot differentiate it: take torch.no_grad, inference_mode "
                "and detach out of the field, or guide it by 'identity'"
            )

    def _times(self, x: Array, tau: float | Array) -> Array:
        shape = (len(x), self._owner.rows if self._owner.row_times else 1)
        return np.array(np.broadcast_to(np.asarray(tau, x.dtype), shape))

    def _tensor(self, array: Array) -> Any:
        return to_torch(array, self._owner.device)

    def _checked(self, v: Any, x: Array) -> Array:
        if tuple(v.shape) != x.shape:
            raise InterfaceValidationError(f"the velocity of {x.shape} must have that shape, got {tuple(v.shape)}")
        return to_numpy(v)


def pull(call: Call, x: Any, t: Any, target: Any, weights: Any, known: Any) -> tuple[Any, Any, Any]:
    """Forward once and backward once: v, e = weights (target - (x + (1 - t) v)), and e^T dv/dx, e held constant.

    Args:
        call: ``v(x, t, known)``.
        x, target: (B, H, A).
        t: (B, 1) or (B, H).
        weights: (B, H).
        known: whatever `call` takes.
    """
    torch = import_torch()
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        v = call(x, t, known)
    error = weights[..., None] * (target - (x.detach() + (1.0 - t)[..., None] * v.detach()))
    if not v.requires_grad:  # a field that does not depend on x pulls at nothing
        return v, error, torch.zeros_like(x)
    (pulled,) = torch.autograd.grad(v, x, error, allow_unused=True, materialize_grads=True)
    return v.detach(), error, pulled


def encoded(call: Call, observation: dict[str, Any]) -> Any:
    """What `call` takes as its third argument, for an observation's tensors."""
    encode = getattr(call, "encode", None)
    return observation if encode is None else encode(observation)


def frozen(call: Call, device: str) -> Call:
    """The same with its parameters on the device, in evaluation mode, and out of every gradient."""
    if isinstance(call, import_torch().nn.Module):
        call.to(device).eval().requires_grad_(False)
    return call
