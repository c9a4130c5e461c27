"""An observation in the client's words as a frame in the policy's.

A name is looked for as the options say, then as it is, then among the names that this family of clients uses for
the same thing, where just one of them was sent and the policy reads just one such thing.  What else was sent is
left aside; what is not found is refused, naming it and the nearest that was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Frame, PolicySpec, nearest
from chunkwise.contract.values import Array
from chunkwise.wires import WireError
from chunkwise.wires.openpi import Pair

CAMERA_ALIASES: Final = (
    ("cam_high", "exterior_image_1_left", "image", "base_0_rgb", "base", "front", "head", "top"),
    ("cam_left_wrist", "left_wrist_0_rgb", "left_wrist", "wrist_left"),
    ("cam_right_wrist", "right_wrist_0_rgb", "right_wrist", "wrist_right"),
    ("wrist_image_left", "wrist_image", "wrist"),
    ("cam_low", "low"),
)
"""Names of one camera: ALOHA's, DROID's, LIBERO's, those inside openpi's models, and plain ones."""
STATE: Final = "state"
ALOHA: Final = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
"""The parts of ALOHA's fourteen numbers, in their order."""
PROMPTS: Final = ("prompt", "task", "instruction", "language_instruction")
MAX_DEPTH: Final = 4
MAX_NUMBERS: Final = 4096
MAX_SIDE: Final = 8192


def flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Every leaf by its keys joined with slashes: ``images/cam_high``.

    Raises:
        WireError: a key that is no text, or maps too deep in one another.
    """
    found: dict[str, Any] = {}

    def put(branch: Mapping[Any, Any], before: str, depth: int) -> None:
        for key, value in branch.items():
            if not isinstance(key, str):
                raise WireError(f"a key must be a text, got {key!r:.60}")
            if isinstance(value, dict):
                if depth >= MAX_DEPTH:
                    raise WireError(f"{before}{key:.60}: more than {MAX_DEPTH} maps in one another")
                put(value, f"{before}{key}/", depth + 1)
            else:
                found[before + key] = value

    put(tree, "", 1)
    return found


def frame_of(
    tree: Mapping[Any, Any], spec: PolicySpec, cameras: Sequence[Pair], states: Sequence[Pair], task: str
) -> Frame:
    """The frame that the policy reads.

    Args:
        tree: an observation.
        spec: of the policy.
        cameras, states: names by option.
        task: the prompt where the observation has none.

    Raises:
        WireError: something that the policy reads is not there, or is no picture, no state, no prompt.
    """
    leaves = flat(tree)
    pictures = {key: value for key, value in leaves.items() if _is_picture(value)}
    vectors = {key: value for key, value in leaves.items() if _is_numbers(value)}
    images = {
        name: picture(pictures[key], key)
        for name, key in _cameras(spec.required_image_keys, list(pictures), cameras).items()
    }
    return Frame(images, _states(spec, vectors, states), _task(leaves, spec, task))


# Names --------------------------------------------------------------------------------------------------------


def _found(name: str, shown: Sequence[str]) -> str | None:
    """The key that is this name, or the one key that ends with it; dots count as slashes."""
    if name in shown:
        return name
    ending = [key for key in shown if key.replace(".", "/").endswith(f"/{name}")]
    return ending[0] if len(ending) == 1 else None


def _cameras(wanted: Sequence[str], shown: Sequence[str], pairs: Sequence[Pair]) -> dict[str, str]:
    named = {pair.ours[0]: pair.theirs for pair in pairs}
    taken: dict[str, str] = {}
    for name in wanted:
        key = _found(named.get(name, name), shown)
        if key is None and name not in named:
            key = _alias(name, wanted, shown)
        if key is None:
            raise WireError(_missing("camera", named.get(name, name), shown))
        taken[name] = key
    return taken


def _alias(name: str, wanted: Sequence[str], shown: Sequence[str]) -> str | None:
    for group in CAMERA_ALIASES:
        if name in group and sum(other in group for other in wanted) == 1:
            alike = [key for key in shown if key.replace(".", "/").rpartition("/")[2] in group]
            if len(alike) == 1:
                return alike[0]
    return None


def _missing(what: str, name: str, shown: Sequence[str]) -> str:
    there = ", ".join(shown)[:400] or "none"
    ends = {key.rpartition("/")[2]: key for key in shown}
    return f"{what} {name!r} is missing{nearest(name, [*shown, *ends])}; there are: {there}"


# States -------------------------------------------------------------------------------------------------------


def _states(spec: PolicySpec, shown: Mapping[str, Any], pairs: Sequence[Pair]) -> dict[str, Array]:
    wanted = list(dict.fromkeys([*spec.required_state_keys, *spec.state_names]))
    state: dict[str, Array] = {}
    for pair in pairs:
        if any(name in wanted for name in pair.ours):
            key = _found(pair.theirs, list(shown))
            if key is None:
                raise WireError(_missing("state", pair.theirs, list(shown)))
            state |= _split(numbers(shown[key], key), pair.ours, spec, key)
    for name in wanted:
        if name not in state and (key := _found(name, list(shown))) is not None:
            array = numbers(shown[key], key)
            state[name] = row(array, key) if name in spec.state_names else array
    rest = [name for name in wanted if name not in state]
    if rest:
        state |= _known(rest, wanted, shown)
    for name in wanted:
        if name not in state:
            raise WireError(_missing("state", name, list(shown)))
    return {name: state[name] for name in wanted}


def _split(vector: Array, names: Sequence[str], spec: PolicySpec, key: str) -> dict[str, Array]:
    """One vector as several states; each but one must say how many numbers it has."""
    if len(names) == 1:
        return {names[0]: vector}
    vector = row(vector, key)
    sizes = [_size(spec, name) for name in names]
    if sizes.count(0) > 1:
        unknown = ", ".join(name for name, size in zip(names, sizes, strict=True) if not size)
        raise WireError(f"{key}: the policy does not say how many numbers {unknown} have")
    sizes = [size or len(vector) - sum(sizes) for size in sizes]
    if sum(sizes) != len(vector) or min(sizes) < 1:
        listed = " + ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
        raise WireError(f"{key} has {len(vector)} numbers, the policy reads {listed}")
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return dict(zip(names, parts, strict=True))


def _size(spec: PolicySpec, name: str) -> int:
    """How many numbers a state has; 0 where the policy does not say it."""
    output = spec.get_output(name)
    return len(spec.state_names.get(name, ())) or (0 if output is None else output.dim)


def _known(rest: Sequence[str], wanted: Sequence[str], shown: Mapping[str, Any]) -> dict[str, Array]:
    """What the family's own names say of states that were not found otherwise."""
    whole, arm, gripper = (_found(name, list(shown)) for name in (STATE, "joint_position", "gripper_position"))
    if whole is not None:
        vector = row(numbers(shown[whole], whole), whole)
        if set(rest) == set(ALOHA) and len(vector) == sum(ALOHA.values()):
            return dict(zip(ALOHA, np.split(vector, np.cumsum(list(ALOHA.values()))[:-1]), strict=True))
        return {rest[0]: vector} if len(wanted) == 1 else {}
    if len(rest) == len(wanted) == 2 and arm is not None and gripper is not None:
        grips = [name for name in rest if "gripper" in name]
        if len(grips) == 1:
            other = next(name for name in rest if name != grips[0])
            return {
                other: row(numbers(shown[arm], arm), arm),
                grips[0]: row(numbers(shown[gripper], gripper), gripper),
            }
    if len(rest) == len(wanted) == 1 and arm is not None and gripper is None:
        return {rest[0]: row(numbers(shown[arm], arm), arm)}
    return {}


def _is_numbers(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size <= MAX_NUMBERS
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, (int, float, list, np.ndarray)) for item in value)
    return isinstance(value, (int, float))


def numbers(value: Any, key: str) -> Array:
    """A state as float64, in the shape that it was sent in; a single number becomes ``(1,)``.

    Raises:
        WireError: it is no array of finite numbers.
    """
    try:
        array = np.array(value, dtype=np.float64, ndmin=1)
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"{key}: no array of numbers") from error
    if not 0 < array.size <= MAX_NUMBERS:
        raise WireError(f"{key}: a state has 1 to {MAX_NUMBERS} numbers, got {array.size}")
    if not np.isfinite(array).all():
        raise WireError(f"{key}: a number that is not finite")
    return array


def row(array: Array, key: str) -> Array:
    """The same as one row; it may stand in a batch of one.

    Raises:
        WireError: it has several rows.
    """
    if max(array.shape) != array.size:
        raise WireError(f"{key}: a state is one row of numbers, got shape {array.shape}")
    return array.reshape(-1)


# Pictures -----------------------------------------------------------------------------------------------------


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 3


def picture(array: NDArray[Any], key: str) -> NDArray[np.uint8]:
    """A picture as ``(height, width, 3)`` uint8 RGB; the policy's image rule is applied later.

    The channels may come first or last, in bytes or as 0 to 1; no pixel is moved and no size changed.

    Raises:
        WireError: it is no picture.
    """
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or min(array.shape) < 1 or max(array.shape) > MAX_SIDE:
        raise WireError(f"{key}: a picture is (height, width, 3) or (3, height, width), got {shape}")
    if array.shape[2] != 3:
        if array.shape[0] != 3:
            raise WireError(f"{key}: a picture has three channels, first or last, got {shape}")
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise WireError(f"{key}: a picture of floats goes from 0 to 1")
        array = (255 * array).astype(np.uint8)
    if array.dtype != np.uint8:
        raise WireError(f"{key}: a picture is uint8, or floats from 0 to 1, got {array.dtype}")
    return np.ascontiguousarray(array)


# The task -----------------------------------------------------------------------------------------------------


def _task(leaves: Mapping[str, Any], spec: PolicySpec, default: str) -> dict[str, Any]:
    texts = {key: value for key, value in leaves.items() if isinstance(value, str)}
    task: dict[str, Any] = {}
    for name in PROMPTS:
        if (key := _found(name, list(texts))) is not None:
            task["prompt"] = texts[key]
            break
    for name in spec.required_task_keys:
        key = _found(name, list(texts))
        if key is not None:
            task.setdefault(name, texts[key])
    if default:
        task.setdefault("prompt", default)
    for name in spec.required_task_keys:
        if name not in task:
            raise WireError(_missing("task", name, list(texts)))
    return task
