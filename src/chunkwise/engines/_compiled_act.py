"""ACT as a compiled network: its inputs in the network's order, and its answer as a chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.engines._compiled import CONFIG, IMAGES, ORDERS, STATE, BackendError, PolicyConfig
from chunkwise.engines._resizing import bilinear

Array = NDArray[Any]
Float32 = NDArray[np.float32]


class ActInputs:
    """The tensors of an ACT policy as arrays, in the order in which the compiled network takes them.

    The order is the one that the configuration says; else the one of `names`, where the network names its inputs
    like the policy; else the configuration's own: state and pictures as they stand in ``input_features``.

    Args:
        policy: what the configuration says.
        names: of the network's inputs, in its order, where the runtime knows them.

    Attributes:
        specs: what is taken, by LeRobot's names, in the network's order.  Pictures may have any size.
        shapes: what the network is given for each, in the same order.

    Raises:
        InterfaceValidationError: the configuration has no such inputs, or some whose place nobody knows.
    """

    def __init__(self, policy: PolicyConfig, names: Sequence[str] = ()) -> None:
        named = _named(policy, names)
        if named and policy.order and named != policy.order:
            raise BackendError(
                f"the network's inputs are {', '.join(named)}, and {policy.folder / CONFIG} says "
                f"{', '.join(policy.order)}: one of them is another policy's"
            )
        order = policy.order or named or _listed(policy)
        self.specs: dict[str, TensorSpec] = {}
        self.shapes: list[tuple[int, ...]] = []
        for name in order:
            shape = policy.inputs[name].shape
            picture = policy.inputs[name].type == "VISUAL" or name.startswith(IMAGES)
            if len(shape) != (3 if picture else 1) or 0 in shape:
                wanted = "channels, height and width" if picture else "one number, its width"
                raise InterfaceValidationError(
                    f"{policy.folder / CONFIG}: the shape of {name} must be {wanted}; got {list(shape)}"
                )
            self.specs[name] = TensorSpec((1, shape[0], None, None) if picture else (1, *shape), "float32")
            self.shapes.append((1, *shape))

    def arrays(self, tensors: Mapping[str, Array]) -> list[Float32]:
        """What the network takes: float32, contiguous, pictures (1, C, H, W) stretched to the size they had."""
        made = []
        for name, shape in zip(self.specs, self.shapes, strict=True):
            given = tensors[name]
            sized = bilinear(given, *shape[2:]) if len(shape) == 4 else given
            made.append(np.ascontiguousarray(sized, np.float32))
        return made


def chunk_of(outputs: Sequence[Array], backend: str, dim: int, stride: int = 0) -> Float32:
    """The chunk (1, rows, `dim`) that a network's first output is; the further ones are not looked at.

    Args:
        outputs: of the network.
        backend: for messages.
        dim: columns of an action.
        stride: numbers from one row to the next, where rows are filled up; 0 where they are not.

    Raises:
        BackendError: there is none, or its numbers make no rows.
    """
    if not outputs:
        raise BackendError(f"Compiled backend {backend} returned no outputs")
    values = np.asarray(outputs[0], np.float32)
    width = stride or dim
    if not values.size or values.size % width:
        by = f"sd3403_action_stride={stride}" if stride else f"action_dim={dim}"
        raise BackendError(f"unexpected ACT OM action tensor size={values.size}, not divisible by {by}")
    inner = values.shape[values.ndim - 1] if values.ndim > 1 and not stride else width
    if inner != width:
        raise BackendError(
            f"Compiled backend {backend} answered {values.shape}, and an action has {dim} numbers: "
            "the network is another policy's, or its first output is not the action"
        )
    if not stride and math.prod(values.shape[:-2]) > 1:
        raise BackendError(f"Compiled backend {backend} answered {values.shape}, and is asked for one chunk")
    return values.reshape(1, -1, width)[:, :, :dim].copy()


def _named(policy: PolicyConfig, names: Sequence[str]) -> tuple[str, ...]:
    known = set(names) <= set(policy.inputs) and len(set(names)) == len(names)
    return tuple(names) if known else ()


def _listed(policy: PolicyConfig) -> tuple[str, ...]:
    chosen = [name for name in policy.inputs if name == STATE or name.startswith(IMAGES)]
    if not chosen:
        raise InterfaceValidationError(
            "compiled policy config does not expose supported state/image input features: "
            f"{policy.folder / CONFIG}"
        )
    left = [name for name in policy.inputs if name not in chosen]
    if left:
        raise InterfaceValidationError(
            f"{policy.folder / CONFIG}: nobody knows where among the network's inputs {', '.join(left)} stands; "
            f"say all of them in order, as {ORDERS[0]}"
        )
    return tuple(chosen)
