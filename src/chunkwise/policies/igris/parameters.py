"""The runtime-parameters JSON: rates, sizes and cameras of a policy, every one of them checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkwise.contract import MAX_ROWS
from chunkwise.policies.igris.documents import PolicyFileError, mapping, read_bytes, refuse_unknown

MAX_WIDTH = 4096
MAX_PIXELS = 8192
MAX_FRAMES = 64
RESERVED = ("proprio", "prompt", "action", "prev_action", "num_control_iters", "est_delay")
"""Names in a policy's input that are no cameras."""


@dataclass(frozen=True, slots=True)
class RuntimeParams:
    """What a runtime-parameters file says; its keys are named in brackets where ours differ.

    Attributes:
        control_hz: [HZ] control steps per second.
        max_delta_deg: how far an arm joint may be moved in one step [deg].
        policy_update_period: steps from one chunk to the next when nothing overlaps.
        image_width, image_height: [mono_image_resize] of the pictures that the policy gets, in pixels.
        camera_names: keys of the pictures.
        proprio_state_dim: columns of ``proprio``.
        action_dim: columns of a chunk.
        action_chunk_size: rows of a chunk (``H``).
        proprio_history_size: rows of ``proprio``, one for each control step.
        num_img_obs: pictures of each camera.
        img_obs_every: control steps from one picture to the next older one.
        norm_stats: [norm_stats_file_path] file of the statistics; None where the file names none.
    """

    control_hz: float
    max_delta_deg: float
    policy_update_period: int
    image_width: int
    image_height: int
    camera_names: tuple[str, ...]
    proprio_state_dim: int
    action_dim: int
    action_chunk_size: int
    proprio_history_size: int
    num_img_obs: int
    img_obs_every: int
    norm_stats: Path | None


KEYS = (
    *("HZ", "max_delta_deg", "policy_update_period", "mono_image_resize", "camera_names", "proprio_state_dim"),
    *("action_dim", "action_chunk_size", "proprio_history_size", "num_img_obs", "img_obs_every"),
    "norm_stats_file_path",
)


def read_runtime_params(path: str | Path) -> RuntimeParams:
    """A runtime-parameters file; a relative path in it begins in its folder.

    Raises:
        MissingFile: there is no such file.
        PolicyFileError: it is no JSON; a key is unknown, missing, or twice; a value is of another type, out of
            range, or does not go with another.
    """
    path = Path(path).expanduser()
    tree = mapping(_json(read_bytes(path, "runtime parameters"), path), str(path))
    refuse_unknown(tree, KEYS, str(path))
    missing = [key for key in KEYS if key not in tree]
    if missing:
        raise PolicyFileError(f"{path}: without {', '.join(missing)}; every key is needed")
    size = mapping(tree["mono_image_resize"], f"{path}: mono_image_resize")
    refuse_unknown(size, ("width", "height"), f"{path}: mono_image_resize")

    def whole(key: str, most: int, of: dict[str, Any] = tree) -> int:
        value = of.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise PolicyFileError(f"{path}: {key} must be a whole number from 1 to {most}, got {value!r}")
        return value

    def number(key: str, most: float) -> float:
        value = tree[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise PolicyFileError(f"{path}: {key} must be above 0 and at most {most:g}, got {value!r}")
        return float(value)

    params = RuntimeParams(
        control_hz=number("HZ", 1000.0),
        max_delta_deg=number("max_delta_deg", 360.0),
        policy_update_period=whole("policy_update_period", MAX_ROWS),
        image_width=whole("width", MAX_PIXELS, size),
        image_height=whole("height", MAX_PIXELS, size),
        camera_names=_cameras(tree["camera_names"], path),
        proprio_state_dim=whole("proprio_state_dim", MAX_WIDTH),
        action_dim=whole("action_dim", MAX_WIDTH),
        action_chunk_size=whole("action_chunk_size", MAX_ROWS),
        proprio_history_size=whole("proprio_history_size", MAX_ROWS),
        num_img_obs=whole("num_img_obs", MAX_FRAMES),
        img_obs_every=whole("img_obs_every", MAX_ROWS),
        norm_stats=_file(tree["norm_stats_file_path"], path),
    )
    if params.policy_update_period > params.action_chunk_size:
        raise PolicyFileError(
            f"{path}: policy_update_period is {params.policy_update_period} steps, and a chunk has "
            f"action_chunk_size = {params.action_chunk_size} rows: the plan would end before the next one is made"
        )
    return params


def _json(data: bytes, path: Path) -> object:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [key for key, _ in pairs]
            raise ValueError(f"a key twice: {next(key for key in names if names.count(key) > 1)}")
        return made

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no number")
        return value

    try:
        return json.loads(data, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise PolicyFileError(f"{path} is not JSON: {error}") from error


def _cameras(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise PolicyFileError(f"{path}: camera_names must be a list of names, got {value!r}")
    taken = [name for name in value if name in RESERVED or value.count(name) > 1]
    if taken:
        raise PolicyFileError(f"{path}: camera_names: {taken[0]!r} is taken; each name once, none of {RESERVED}")
    return tuple(value)


def _file(value: object, path: Path) -> Path | None:
    if not isinstance(value, str):
        raise PolicyFileError(f'{path}: norm_stats_file_path must be a path, or "" for none, got {value!r}')
    return path.parent / Path(value).expanduser() if value else None
