"""What a robot saw, as a policy's tensors: named, shaped and scaled as the policy says, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import nearest
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.images import scaled
from chunkwise.processing.pipeline import Batch
from chunkwise.processing.steps import TASK, Feature


def tensors(observation: Mapping[str, Any], features: Mapping[str, Feature]) -> Batch:
    """One observation as the tensors of a policy.

    Args:
        observation: by LeRobot's names: uint8 pictures ``(height, width, channels)``, numbers, whole numbers of
            language tokens; ``task``, a text, may stand beside.
        features: what the policy takes, by name; those that are actions are not asked for.

    Returns:
        A new batch without a batch dimension: pictures float32 ``(channels, height, width)`` in [0, 1], numbers
        float32; tokens and masks keep their type.

    Raises:
        ProcessingError: something is missing, unknown, has another shape, or is not finite.

    >>> tensors({"observation.state": [1, 2]}, {"observation.state": Feature("STATE", (2,))})
    {'observation.state': array([1., 2.], dtype=float32)}
    """
    wanted = {name: feature for name, feature in features.items() if feature.type != "ACTION"}
    missing = [name for name in wanted if name not in observation]
    if missing:
        raise ProcessingError(
            f"the observation lacks {', '.join(missing)}; it has: {', '.join(observation) or 'nothing'}"
        )
    unknown = [name for name in observation if name not in wanted and name != TASK]
    if unknown:
        raise ProcessingError(
            f"the policy takes no {unknown[0]!r}{nearest(unknown[0], wanted)}; it takes: {', '.join(wanted)}"
        )
    made: Batch = {name: _tensor(name, observation[name], feature) for name, feature in wanted.items()}
    if TASK in observation:
        task = observation[TASK]
        if not isinstance(task, str):
            raise ProcessingError(f"{TASK} must be a text, got {type(task).__name__}")
        made[TASK] = task
    return made


def _tensor(name: str, value: Any, feature: Feature) -> NDArray[Any]:
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ProcessingError(f"{name} must be an array: {error}") from error
    if feature.type == "VISUAL":
        made: NDArray[Any] = scaled(found, name)
    elif found.dtype.kind not in "fiub":
        raise ProcessingError(f"{name} must be numbers, got {found.dtype}")
    elif feature.type == "LANGUAGE" and found.dtype.kind != "f":
        made = found
    else:
        made = found.astype(np.float32)
    if made.shape != feature.shape:
        raise ProcessingError(f"{name} must have shape {feature.shape}, got {made.shape}")
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        raise ProcessingError(f"{name} has a number that is not finite")
    return made
