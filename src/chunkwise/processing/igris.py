"""JSON of the IGRIS engine, every key checked; its runtime parameters, which robots and policies share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chunkwise.contract import MAX_ROWS
from chunkwise.contract.errors import nearest
from chunkwise.processing.errors import ProcessingError

MAX_BYTES: Final = 1 << 20
"""Of a file."""
MAX_WIDTH: Final = 4096
MAX_PIXELS: Final = 8192
MAX_FRAMES: Final = 64
RESERVED: Final = ("proprio", "prompt", "action", "prev_action", "num_control_iters", "est_delay")
"""Names in a policy's input that are no cameras."""


class IgrisFileError(ProcessingError):
    """A file of the IGRIS engine, or a key in it, is wrong; the message says which."""


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
        norm_stats: [norm_stats_file_path] file of the statistics; empty where the file names none.
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
    norm_stats: str

    @property
    def max_rate(self) -> float:
        """The slew limit of an arm joint [rad/s]: ``max_delta_deg`` in each of ``HZ`` steps."""
        return math.radians(self.max_delta_deg) * self.control_hz


KEYS: Final = (
    *("HZ", "max_delta_deg", "policy_update_period", "mono_image_resize", "camera_names", "proprio_state_dim"),
    *("action_dim", "action_chunk_size", "proprio_history_size", "num_img_obs", "img_obs_every"),
    "norm_stats_file_path",
)


class Tree:
    """A mapping of a file, whose keys are asked for one by one.

    Args:
        value: what stands in the file.
        where: in which file and at which key, for messages.
        known: the keys that it may have; any where None.

    Raises:
        IgrisFileError: it is no mapping, or has a key that is not known.
    """

    def __init__(self, value: object, where: str, known: Iterable[str] | None = None) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise IgrisFileError(f"{where} must be a mapping of names, got {_shown(value)}")
        self.values, self.where = dict(value), where
        names = list(known) if known is not None else list(self.values)
        for key in self.values:
            if key not in names:
                there = ", ".join(names)
                raise IgrisFileError(f"{where}: unknown key {key!r}{nearest(key, names)}; there are: {there}")

    def require(self, keys: Iterable[str]) -> None:
        """Raise IgrisFileError that names every one of `keys` that is missing."""
        missing = [key for key in keys if key not in self.values]
        if missing:
            raise IgrisFileError(f"{self.where}: without {', '.join(missing)}; every key is needed")

    def whole(self, key: str, most: int, least: int = 1) -> int:
        """A whole number from `least` to `most`."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"must be a whole number from {least} to {most}")
        return value

    def positive(self, key: str, most: float) -> float:
        """A number above zero and at most `most`."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise self.wrong(key, f"must be above 0 and at most {most:g}")
        return float(value)

    def text(self, key: str, what: str = "a text") -> str:
        """A text that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, f"must be {what}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names, each once."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self.wrong(key, "must be a list of names")
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise IgrisFileError(f"{self.where}: {key}: {twice[0]!r} is taken; each name once")
        return tuple(value)

    def wrong(self, key: str, rule: str) -> IgrisFileError:
        """The error that says what a key must be, and what it is."""
        return IgrisFileError(f"{self.where}: {key} {rule}, got {_shown(self.values.get(key))}")


def read_json(data: bytes, where: str) -> object:
    """JSON within bounds, in which no key stands twice and every number is one.

    Args:
        data: of the file.
        where: its name, for messages.

    Raises:
        IgrisFileError: it is none.
    """
    if len(data) > MAX_BYTES:
        raise IgrisFileError(f"{where} is larger than {MAX_BYTES} bytes")
    try:
        return json.loads(data, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise IgrisFileError(f"{where} is not JSON: {error}") from error


def runtime_params(data: bytes, where: str) -> RuntimeParams:
    """The content of an ``inference_runtime_params.json``; its path is left as it stands there.

    Args:
        data: of the file.
        where: its name, for messages.

    Raises:
        IgrisFileError: it is no JSON; a key is unknown, missing, or twice; a value is of another type, out of
            range, or does not go with another.

    >>> runtime_params(b'{"HZ": 20, "max_delta": 5}', "a.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    chunkwise.processing.igris.IgrisFileError: a.json: unknown key 'max_delta' (did you mean 'max_delta_deg'?)...
    """
    tree = Tree(read_json(data, where), where, KEYS)
    tree.require(KEYS)
    size = Tree(tree.values["mono_image_resize"], f"{where}: mono_image_resize", ("width", "height"))
    names = tree.names("camera_names")
    for name in names:
        if name in RESERVED:
            raise IgrisFileError(f"{where}: camera_names: {name!r} is taken; none of {RESERVED}")
    if not isinstance(tree.values["norm_stats_file_path"], str):
        raise tree.wrong("norm_stats_file_path", 'must be a path, or "" for none')
    params = RuntimeParams(
        control_hz=tree.positive("HZ", 1000.0),
        max_delta_deg=tree.positive("max_delta_deg", 360.0),
        policy_update_period=tree.whole("policy_update_period", MAX_ROWS),
        image_width=size.whole("width", MAX_PIXELS),
        image_height=size.whole("height", MAX_PIXELS),
        camera_names=names,
        proprio_state_dim=tree.whole("proprio_state_dim", MAX_WIDTH),
        action_dim=tree.whole("action_dim", MAX_WIDTH),
        action_chunk_size=tree.whole("action_chunk_size", MAX_ROWS),
        proprio_history_size=tree.whole("proprio_history_size", MAX_ROWS),
        num_img_obs=tree.whole("num_img_obs", MAX_FRAMES),
        img_obs_every=tree.whole("img_obs_every", MAX_ROWS),
        norm_stats=tree.values["norm_stats_file_path"],
    )
    if params.policy_update_period > params.action_chunk_size:
        raise IgrisFileError(
            f"{where}: policy_update_period is {params.policy_update_period} steps, and a chunk has "
            f"action_chunk_size = {params.action_chunk_size} rows: the plan would end before the next one is made"
        )
    return params


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"a key twice: {next(key for key in names if names.count(key) > 1)}")
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _shown(value: object) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
