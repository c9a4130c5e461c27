"""Which device is which camera, and in which mode."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from chunkwise.contract.errors import InterfaceValidationError, nearest
from chunkwise.processing.igris import RuntimeParams
from chunkwise.robots._igris.body import Body
from chunkwise.robots._igris.capture import Mode
from chunkwise.robots._igris.topics import PREFIX, Topics

MODE: Final = re.compile(r"(\d{1,5})x(\d{1,5})@(\d{1,4}(?:\.\d+)?)")


def devices_of(cameras: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
    """Camera -> device, those given as ``NAME=DEVICE`` over the robot's own.

    Raises:
        InterfaceValidationError: one is none of that, or no camera of the robot.

    >>> devices_of({"head": "/dev/video0"}, ["head=fake:"])
    {'head': 'fake:'}
    """
    made = dict(cameras)
    for item in given:
        name, equals, device = item.partition("=")
        if not equals or not device or name not in cameras:
            there = ", ".join(cameras) or "none"
            raise InterfaceValidationError(
                f"devices: {item!r} must be CAMERA=DEVICE{nearest(name, cameras)}; cameras are: {there}"
            )
        made[name] = device
    return made


def camera_modes(body: Body, params: RuntimeParams, topics: Topics, mode: str, rotate: int) -> dict[str, Mode]:
    """The mode of every camera that the parameters name and no topic shows.

    Pictures are scaled to half of the device's size, then by area to ``mono_image_resize``: as the engine does
    it, so that a policy sees what it was trained on.  Twice the control rate is decoded; nobody looks at the rest.

    Args:
        body, params, topics: of the robot.
        mode: ``1600x1200@60``.
        rotate: clockwise [degrees].

    Raises:
        InterfaceValidationError: the mode is none.
    """
    found = MODE.fullmatch(mode)
    if found is None:
        raise InterfaceValidationError(f"camera_mode must be WIDTHxHEIGHT@RATE, as 1600x1200@60, got {mode!r}")
    width, height, fps = int(found[1]), int(found[2]), float(found[3])
    shown = {key.removeprefix(PREFIX) for key, (_, rule) in topics.rules().items() if rule.kind == "image"}
    size, between = (params.image_width, params.image_height), (width // 2, height // 2)
    return {
        name: Mode(
            body.cameras[name],
            *(width, height, fps),
            rotate=rotate,
            between=between if between[0] > size[0] and between[1] > size[1] else (0, 0),
            size=size,
            rate_hz=min(2 * params.control_hz, fps),
        )
        for name in params.camera_names
        if name not in shown
    }
