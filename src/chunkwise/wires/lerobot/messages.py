"""What the protocol's pickles hold: a robot's setup, an observation, a chunk of actions; read and written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import MAX_ROWS
from chunkwise.contract.values import Array
from chunkwise.processing.errors import PickleError
from chunkwise.processing.pickled import Instance, Known, Machine, instance
from chunkwise.processing.pickled_arrays import NUMPY, NdArray
from chunkwise.wires import Buffer, WireError
from chunkwise.wires.lerobot.arrays import TORCH
from chunkwise.wires.lerobot.writing import dumps

MODULE: Final = "lerobot.async_inference.helpers"
MODULES: Final = (MODULE, "lerobot.scripts.server.helpers")
"""Where the classes stand: now, and in releases before 0.4."""
STATE: Final = "observation.state"
IMAGES: Final = "observation.images."
MAX_INSTRUCTIONS: Final = 20_000
"""Of an observation or a setup; a thousand joints need six thousand."""
MAX_ACTION_INSTRUCTIONS: Final = 1 << 20
MAX_ENTRIES: Final = 1024
MAX_NAME: Final = 256
MAX_TASK: Final = 64 << 10
MAX_STEP: Final = 1 << 53


def _named(*names: str) -> dict[str, Known]:
    return {f"{module} {name}": instance(module, name) for module in MODULES for name in names}


_CONFIGS: Final = "lerobot.configs.types"
INBOUND: Final[Mapping[str, Known]] = {
    **NUMPY,
    **_named("RemotePolicyConfig", "TimedObservation"),
    f"{_CONFIGS} PolicyFeature": instance(_CONFIGS, "PolicyFeature"),
    f"{_CONFIGS} FeatureType": Known(lambda value: value),
}
"""All that a robot's pickle may name."""
ACTIONS: Final[Mapping[str, Known]] = {**TORCH, **_named("TimedAction")}
"""All that a server's pickle may name."""


class Setup(NamedTuple):
    """How a robot introduces itself.

    Attributes:
        module: where its classes stand.
        joints: what it measures, in the order of its state; None where it does not say.
        actions: the order of its actions; None where it does not say.
        cameras: names of its cameras; None where it does not say what it has.
        per_chunk: actions that it wants of a chunk; 0 for all.
    """

    module: str = MODULE
    joints: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    cameras: tuple[str, ...] | None = None
    per_chunk: int = 0


class Seen(NamedTuple):
    """What a robot saw.

    Attributes:
        module: where its classes stand.
        timestamp: when, on its own clock [s since 1970].
        timestep: number of the action that it did last.
        must_go: its queue of actions was empty.
        numbers: joints and whatever else is one number, in its order.
        images: arrays by camera.
        task: what is to be done; empty where it does not say.
    """

    module: str
    timestamp: float
    timestep: int
    must_go: bool
    numbers: dict[str, float]
    images: dict[str, NDArray[Any]]
    task: str


# Read ---------------------------------------------------------------------------------------------------------


def read_setup(data: Buffer) -> Setup:
    """A `RemotePolicyConfig`; the policy that it names is no business of ours.

    Raises:
        WireError: it is none.
    """
    found = _instance(data, INBOUND, MAX_INSTRUCTIONS, "RemotePolicyConfig")
    features, per_chunk = found.fields.get("lerobot_features"), found.fields.get("actions_per_chunk", 0)
    if type(features) is not dict or len(features) > MAX_ENTRIES:
        raise WireError("lerobot_features must be a dict")
    if type(per_chunk) is not int or not 0 <= per_chunk <= MAX_STEP:
        raise WireError("actions_per_chunk must be a whole number")
    cameras = tuple(key.removeprefix(IMAGES) for key in features if key.startswith(IMAGES))
    joints, actions = _names(features, STATE), _names(features, "action")
    return Setup(found.module, joints, actions, cameras if features else None, per_chunk)


def read_observation(data: Buffer) -> Seen:
    """A `TimedObservation`; its images are views of `data`.

    Raises:
        WireError: it is none.
    """
    found = _instance(data, INBOUND, MAX_INSTRUCTIONS, "TimedObservation")
    raw = found.fields.get("observation")
    if type(raw) is not dict or len(raw) > MAX_ENTRIES:
        raise WireError("observation must be a dict")
    timestamp, timestep = _timed(found)
    numbers: dict[str, float] = {}
    images: dict[str, NDArray[Any]] = {}
    for key, value in raw.items():
        if type(value) in (int, float):
            numbers[key] = _finite(value, key)
        elif isinstance(value, NdArray) and value.array is not None:
            _sort_in(key, value.array, numbers, images)
    task = raw.get("task", "")
    if type(task) is not str or len(task) > MAX_TASK:
        raise WireError(f"task must be a text of at most {MAX_TASK} letters")
    must_go = found.fields.get("must_go") is True
    return Seen(found.module, timestamp, timestep, must_go, numbers, images, task)


def read_actions(data: Buffer) -> tuple[int, Array]:
    """Number of the first action, and the rows float64 ``(n, width)``.

    Raises:
        WireError: it is no list of `TimedAction` that follow each other.
    """
    found, _ = loaded(data, ACTIONS, MAX_ACTION_INSTRUCTIONS)
    if type(found) is not list or not 0 < len(found) <= MAX_ROWS:
        raise WireError(f"actions must be a list of 1 to {MAX_ROWS}")
    rows, steps = [], []
    for item in found:
        if not isinstance(item, Instance) or item.name != "TimedAction":
            raise WireError("an action must be a TimedAction")
        value = item.fields.get("action")
        if not isinstance(value, np.ndarray) or not value.size or value.size != value.shape[-1]:
            raise WireError("an action must be a tensor of one row")
        with np.errstate(invalid="ignore"):  # what is not finite is refused below
            rows.append(value.reshape(-1).astype(np.float64))
        steps.append(_timed(item)[1])
    if steps != list(range(steps[0], steps[0] + len(steps))):
        raise WireError("the actions do not follow each other")
    if len({row.size for row in rows}) > 1 or not np.isfinite(rows).all():
        raise WireError("the actions have several widths, or hold a number that is not finite")
    return steps[0], np.array(rows)


def loaded(data: Buffer, known: Mapping[str, Known], most: int) -> tuple[Any, int]:
    """What a pickle holds, and where it ends.

    Raises:
        WireError: it is none, or names or does what is not allowed.
    """
    machine = Machine(memoryview(data), known, most)
    try:
        return machine.load(), machine.at
    except PickleError as error:
        raise WireError(str(error)) from error


def _instance(data: Buffer, known: Mapping[str, Known], most: int, name: str) -> Instance:
    found, end = loaded(data, known, most)
    if end != len(data):
        raise WireError("something follows the pickle")
    if not isinstance(found, Instance) or found.name != name:
        raise WireError(f"the pickle must hold a {name}")
    return found


def _names(features: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    feature = features.get(key)
    if feature is None:
        return None
    names: Any = feature.get("names") if type(feature) is dict else None
    if type(names) not in (list, tuple) or not all(type(name) is str for name in names):
        raise WireError(f"lerobot_features[{key!r}] must have a list of names")
    if len(names) > MAX_ENTRIES or len(set(names)) != len(names) or any(len(name) > MAX_NAME for name in names):
        raise WireError(f"lerobot_features[{key!r}]: names must be distinct, at most {MAX_ENTRIES}, and short")
    return tuple(names)


def _timed(found: Instance) -> tuple[float, int]:
    timestamp, timestep = found.fields.get("timestamp"), found.fields.get("timestep")
    if type(timestamp) not in (int, float):
        raise WireError("timestamp must be a number")
    if type(timestep) is not int or not 0 <= timestep <= MAX_STEP:
        raise WireError("timestep must be a whole number, from 0")
    return _finite(timestamp, "timestamp"), timestep


def _finite(value: Any, name: str) -> float:
    if not abs(value) < 1e300:
        raise WireError(f"{name[:MAX_NAME]!r} must be a finite number")
    return float(value)


def _sort_in(key: str, array: NDArray[Any], numbers: dict[str, float], images: dict[str, NDArray[Any]]) -> None:
    if array.ndim >= 2:
        images[key] = array
    elif array.size == 1 and array.dtype.kind in "iuf":
        numbers[key] = _finite(array.item(), key)
    else:
        if len(numbers) + array.size > MAX_ENTRIES:
            raise WireError(f"an observation has at most {MAX_ENTRIES} numbers")
        for index, value in enumerate(array.reshape(-1).tolist()):
            numbers[f"{key}.{index}"] = _finite(value, key)


# Written ------------------------------------------------------------------------------------------------------


def write_setup(
    joints: Sequence[str], cameras: Mapping[str, tuple[int, ...]], per_chunk: int, policy: tuple[str, str, str]
) -> bytes:
    """A `RemotePolicyConfig`.

    Args:
        joints: names of the numbers of the state.
        cameras: shapes of the pictures by name.
        per_chunk: actions that are wanted of a chunk.
        policy: type, where it is, and the device to run it on.
    """
    features: dict[str, Any] = {STATE: {"dtype": "float32", "shape": (len(joints),), "names": list(joints)}}
    for name, shape in cameras.items():
        features[IMAGES + name] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
    kind, path, device = policy
    fields = {
        "policy_type": kind,
        "pretrained_name_or_path": path,
        "lerobot_features": features,
        "actions_per_chunk": per_chunk,
        "device": device,
        "rename_map": {},
    }
    return dumps(Instance(MODULE, "RemotePolicyConfig", fields))


def write_observation(seen: Seen) -> bytes:
    """A `TimedObservation`."""
    fields = {
        "timestamp": seen.timestamp,
        "timestep": seen.timestep,
        "observation": {**seen.numbers, **seen.images, "task": seen.task},
        "must_go": seen.must_go,
    }
    return dumps(Instance(seen.module, "TimedObservation", fields))


def write_actions(module: str, rows: Array, timestep: int, timestamp: float, period_s: float) -> bytes:
    """A list of `TimedAction` whose actions become tensors of torch at the other end.

    Protocol 2: each is made empty and given its fields, the tensor by ``torch.tensor([...])``.

    Args:
        module: where the robot's classes stand.
        rows: float64 ``(n, width)``.
        timestep: of the first.
        timestamp: of the first [s].
        period_s: between two.
    """
    single = rows.astype(np.float32).astype(np.float64)
    if not math.isfinite(float(np.abs(single).max())):
        raise WireError("a row holds a number that float32 has not")
    numbers = np.empty(rows.shape, dtype=[("code", "S1"), ("value", ">f8")])
    numbers["code"], numbers["value"] = b"G", single
    first = f"c{module}\nTimedAction\n".encode() + b"q\x00)\x81}("
    out = bytearray(b"\x80\x02](")
    for index, row in enumerate(numbers):
        out += first if index == 0 else b"h\x00)\x81}("
        out += b"h\x02G" if index else _text("timestamp") + b"q\x02G"
        out += np.array(timestamp + index * period_s, dtype=">f8").tobytes()
        step = timestep + index
        out += (b"h\x03" if index else _text("timestep") + b"q\x03") + b"\x8a\x08" + step.to_bytes(8, "little")
        out += b"h\x04h\x01](" if index else _text("action") + b"q\x04ctorch\ntensor\nq\x01]("
        out += row.tobytes() + b"e\x85Rub"
    return bytes(out + b"e.")


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()
