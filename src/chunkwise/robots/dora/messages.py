"""What OpenArm's Dora nodes say to each other, as numpy arrays here.

One arm is 8 numbers, float32 [rad]: seven joints and the gripper. It travels as ``list<float>`` between most
nodes, as ``[{"qpos": [...]}]`` from the newest arm drivers, and as rows of ``{"new_position",
"other_arm_position"}`` from the actions executor when there are two arms.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.plugins import require

ARM_JOINTS: Final = 8
JPEG_QUALITY: Final = 95
CAMERAS: Final = (
    "camera_wrist_right",
    "camera_wrist_left",
    "camera_head_left",
    "camera_head_right",
    "camera_ceiling",
)
"""The cameras of `dora-openarm-observer` 1.1.0."""

Image = NDArray[np.uint8]


def arrow() -> Any:
    """The package pyarrow.

    Raises:
        MissingExtra: it is not installed.
    """
    return require("pyarrow", extra="dora")


def arm_message(joints: NDArray[np.floating[Any]], *, qpos_struct: bool = False) -> Any:
    """Joints (8,) [rad] as the drivers send them; `qpos_struct` as those from dora-openarm 1.3 on do."""
    pyarrow = arrow()
    values = np.asarray(joints, dtype=np.float32)
    if not qpos_struct:
        return pyarrow.array(values)
    row = pyarrow.struct([("qpos", pyarrow.list_(pyarrow.float32()))])
    return pyarrow.array([{"qpos": values.tolist()}], type=row)


def arm_joints(message: Any) -> NDArray[np.float64]:
    """The joints [rad] in a message about one arm, in any of its forms; a copy.

    Raises:
        ValueError: it is in no form that is known.
    """
    fields = [field.name for field in message.type] if str(message.type).startswith("struct") else []
    if "new_position" in fields:
        message = message.field("new_position")
    elif "qpos" in fields:
        message = message.field("qpos")
    elif fields:
        raise ValueError(f"an arm's message has the fields {fields}, none of them new_position or qpos")
    if str(message.type).startswith(("list", "large_list", "fixed_size_list")):
        message = message[len(message) - 1].values  # the newest row, should there be several
    return np.array(message.to_numpy(zero_copy_only=False), dtype=np.float64)


def posts_message(posts: NDArray[np.floating[Any]]) -> Any:
    """The tracker's posts (2, 2, 2) [m] as one row of 8 numbers, which the observer passes on as it is."""
    pyarrow = arrow()
    return pyarrow.array([np.asarray(posts, dtype=np.float32).ravel()], type=pyarrow.list_(pyarrow.float32()))


def posts_of(message: Any) -> NDArray[np.float64]:
    """The posts (2, 2, 2) [m] in a tracker's message."""
    return np.array(message[len(message) - 1].values, dtype=np.float64).reshape(2, 2, 2)


def words(text: str) -> Any:
    """A message of one word, such as a command."""
    return arrow().array([text])


def jpeg_message(image: Image) -> Any:
    """An image (height, width, 3) uint8 RGB as JPEG, with full colour resolution."""
    pillow = require("PIL.Image", extra="dora")
    stream = io.BytesIO()
    pillow.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return arrow().array(np.frombuffer(stream.getvalue(), dtype=np.uint8))


def jpeg_image(message: Any) -> Image:
    """The image (height, width, 3) uint8 RGB in a JPEG message."""
    pillow = require("PIL.Image", extra="dora")
    with pillow.open(io.BytesIO(message.to_numpy().tobytes())) as picture:
        return np.asarray(picture.convert("RGB"))
