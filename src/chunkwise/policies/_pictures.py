"""Pictures as a policy's image rules have them: applied here, once, just before the policy sees them.

Robots, recordings and wires carry pictures as the camera gave them: uint8 ``(height, width, 3)``, red first.  A
loop of one machine and a server both come here, on the thread that infers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from chunkwise.contract import Frame, ImageRule
from chunkwise.processing.errors import ProcessingError
from chunkwise.processing.images import fit, fitted


def as_ruled(frame: Frame, rules: Mapping[str, ImageRule]) -> Frame:
    """The frame with its pictures as the rules have them; one that is so already, or has no rule, is the same.

    Raises:
        ProcessingError: a picture is none, or of another size where the rule is ``exact``; it names the camera.
    """
    made = {}
    for name, rule in rules.items():
        image = frame.images.get(name)
        if image is None or fitted(image, rule):
            continue
        try:
            made[name] = fit(image, rule)
        except ProcessingError as error:
            raise ProcessingError(f"camera {name!r}: {error}") from error
    return replace(frame, images={**frame.images, **made}) if made else frame


def smaller(frame: Frame, rules: Mapping[str, ImageRule]) -> Frame:
    """The frame with pictures of the rules' sizes where these are smaller: less to send, and the same in the end.

    Colours and axes stay, for whoever applies the rules in full.

    Raises:
        ProcessingError: as :func:`as_ruled`.
    """
    sizes = {
        name: replace(rule, colours="rgb", axes="hwc")
        for name, rule in rules.items()
        if rule.fit != "exact"
        and rule.colours != "grey"
        and name in frame.images
        and 0 < rule.height * rule.width < frame.images[name].shape[0] * frame.images[name].shape[1]
    }
    return as_ruled(frame, sizes)
