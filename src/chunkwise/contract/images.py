"""What a policy's images are like: the rule that both ends of a connection must agree on.

Most failures of a policy that works in training and not on the robot are a picture squashed, padded on another
side, or with red and blue exchanged.  So the rule is data: it stands in the policy's spec, travels with the
handshake, and exactly one place applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from chunkwise.contract.errors import InterfaceValidationError, nearest

CHOICES = {
    "fit": ("exact", "stretch", "letterbox", "crop"),
    "pad": ("centre", "top_left", "bottom_right"),
    "interpolation": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
    "colours": ("rgb", "bgr", "grey"),
    "axes": ("hwc", "chw"),
}


@dataclass(slots=True, frozen=True)
class ImageRule:
    """How a camera's picture becomes what the policy was trained on.

    Attributes:
        height, width: of the picture that the policy gets, in pixels; 0 for any.
        fit: how another size becomes it: ``exact`` (it must not be another), ``stretch``, ``letterbox`` (keeps the
            aspect, pads the rest) or ``crop`` (keeps the aspect, cuts the rest).
        pad: where the picture lies in a letterbox: ``centre``, ``top_left`` or ``bottom_right``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, ``area`` or ``lanczos``.
        antialias: whether shrinking looks at every pixel, as PIL, torchvision's v2 transforms and JAX do; without,
            only at the nearest few, as OpenCV and ``torch.nn.functional.interpolate`` do.  It is no matter to
            ``nearest`` and ``area``.
        colours: order of the channels: ``rgb``, ``bgr`` or ``grey``.
        axes: ``hwc`` or ``chw``.
    """

    height: int = 0
    width: int = 0
    fit: str = "stretch"
    pad: str = "centre"
    interpolation: str = "bilinear"
    antialias: bool = True
    colours: str = "rgb"
    axes: str = "hwc"

    def differences(self, other: ImageRule) -> list[str]:
        """Where two rules differ, each as ``pad: centre here, top_left there``."""
        return [
            f"{item.name}: {getattr(self, item.name)} here, {getattr(other, item.name)} there"
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        ]


def validate_image_rule(rule: ImageRule, where: str) -> None:
    """Check one rule.

    Raises:
        InterfaceValidationError: naming the field.
    """
    for name in ("height", "width"):
        size: Any = getattr(rule, name)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= 1 << 14:
            raise InterfaceValidationError(f"{where}: {name} must be pixels, 0 for any, got {size!r}")
    if not isinstance(rule.antialias, bool):
        raise InterfaceValidationError(f"{where}: antialias must be true or false, got {rule.antialias!r}")
    for name, known in CHOICES.items():
        word = getattr(rule, name)
        if word not in known:
            raise InterfaceValidationError(
                f"{where}: {name} must be one of {', '.join(known)}, got {word!r}{nearest(str(word), known)}"
            )
