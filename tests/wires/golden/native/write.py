"""Writes the golden messages beside it by hand: `struct` and `json` alone, nothing of the package.

python tests/wires/golden/native/write.py
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

PIXELS = bytes(range(2 * 3 * 3))
"""An image of 2 x 3 pixels."""
STATE = (0.1, -2.5)
PREFIX = ((0.1, 0.2), (1e-308, -0.0))
WEIGHTS = (1.0, 0.5)
ROWS = ((0.5, -0.25), (1 / 3, 2.0), (3.0, 4.0))

RULE = {
    "height": 2,
    "width": 3,
    "fit": "letterbox",
    "pad": "top_left",
    "interpolation": "bilinear",
    "antialias": True,
    "colours": "rgb",
    "axes": "hwc",
}
OUTPUT = {
    "target": "arm",
    "command": "joint_position",
    "dim": 2,
    "meta": {},
    "names": ["b", "a"],
    "unit": "rad",
    "rotation": None,
}
POLICY = {
    "name": "golden",
    "required_image_keys": ["head"],
    "required_state_keys": ["arm"],
    "required_task_keys": [],
    "outputs": [OUTPUT],
    "meta": {},
    "state_names": {"arm": ["b", "a"]},
    "action_horizon": 3,
    "control_hz": 50.0,
    "supports_prefix": True,
    "images": {"head": RULE},
    "normalisation": "sha256:0f",
    "of_a_later_version": 1,
}
ARM = {
    "name": "arm",
    "type": "arm",
    "dof": 2,
    "command": ["joint_position"],
    "meta": {},
    "joint_names": ["a", "b"],
    "unit": "rad",
    "lower": [-1.0, -2.0],
    "upper": [1.0, 2.0],
    "max_rate": 3.0,
    "hold": None,
    "rotation": None,
}
ROBOT = {
    "name": "golden robot",
    "image_keys": ["head"],
    "components": [ARM],
    "meta": {},
    "state_keys": [],
    "control_hz": 50.0,
}
FRAME = {
    "images": {"head": None},
    "state": {"arm": None},
    "task": {"prompt": "päck the box"},
    "meta": {"light": 0.5},
    "timestamp_ns": 1_700_000_000_000_000_001,
    "sequence_id": 7,
}
REQUEST = {
    "request_step": 17,
    "request_time_s": 0.34,
    "active_chunk_length": 2,
    "remaining_steps": 2,
    "latency_steps": 1,
    "inference_delay": 1,
    "execute_horizon": 2,
    "prefix": None,
    "prefix_weights": None,
}
IMAGE = [["frame", "images", "head"], "|u1", [2, 3, 3]]
ARM_STATE = [["frame", "state", "arm"], "<f8", [2]]
SLOT = 32
"""Where the arrays of `infer_shared` lie in the shared memory; their count is in the 8 bytes before."""
COUNT = 41


def doubles(*numbers: float) -> bytes:
    """Float64, little-endian."""
    return struct.pack(f"<{len(numbers)}d", *numbers)


def text(tree: dict[str, Any], arrays: list[Any]) -> bytes:
    """The text of a tree with these arrays."""
    return json.dumps({"tree": tree, "arrays": arrays, "left_out": []}, separators=(",", ":")).encode("ascii")


def message(kind: int, tree: dict[str, Any], arrays: list[Any] | None = None, data: bytes = b"") -> bytes:
    """Header, text, arrays."""
    written = text(tree, arrays or [])
    return struct.pack("<2sBBII", b"CW", 1, kind, len(written), len(data)) + written + data


def shared() -> tuple[bytes, bytes]:
    """The message, and what lies in the shared memory from its beginning."""
    data = PIXELS + doubles(*STATE)
    tree = {"id": 4, "deadline_s": None, "frame": FRAME, "request": REQUEST}
    body = struct.pack("<QQQ", SLOT, len(data), COUNT) + text(tree, [IMAGE, ARM_STATE])
    memory = bytes(SLOT - 8) + struct.pack("<Q", COUNT) + data
    return struct.pack("<2sBBII", b"CW", 1, 15, len(body), 0) + body, memory


def messages() -> dict[str, bytes]:
    """Every kind of message, by the name of its file."""
    plain = {"id": 2, "deadline_s": None, "frame": FRAME, "request": REQUEST}
    planned = plain | {"id": 3, "deadline_s": 0.25}
    arrays = [
        IMAGE,
        ARM_STATE,
        [["request", "prefix"], "<f8", [2, 2]],
        [["request", "prefix_weights"], "<f8", [2]],
    ]
    plan = doubles(*PREFIX[0], *PREFIX[1]) + doubles(*WEIGHTS)
    seen = PIXELS + doubles(*STATE)
    hello = {
        "versions": [1],
        "id": 0,
        "session": "left bench",
        "token": "s3cret",
        "robot": ROBOT,
        "expects": POLICY,
    }
    offer = {
        "readiness": "ready",
        "detail": "",
        "policy": POLICY,
        "session": "left bench",
        "version": "chunkwise 0",
    }
    rows = {"id": 3, "rows": None, "first_step": 19, "server_s": 0.125}
    return {
        "hello": message(1, hello),
        "welcome": message(2, {"id": 0, **offer}),
        "infer": message(3, plain, [IMAGE, ARM_STATE], seen),
        "infer_with_plan": message(3, planned, arrays, seen + plan),
        "chunk": message(4, rows, [[["rows"], "<f8", [3, 2]]], doubles(*ROWS[0], *ROWS[1], *ROWS[2])),
        "reset": message(5, {"id": 5}),
        "done": message(6, {"id": 5}),
        "cancel": message(7, {"target": 3}),
        "problem": message(8, {"id": 3, "kind": "policy_failed", "text": "RuntimeError: out of memory"}),
        "status": message(9, {"id": 6}),
        "shared": message(10, {"id": 8, "path": "/proc/1/fd/9", "nonce": "00ff" * 8, "size": 4096}),
        "share": message(11, {"id": 8, "size": 4096}),
        "probed": message(12, {"id": 9}),
        "probe": message(13, {"id": 9, "ballast": None}, [[["ballast"], "|u1", [5]]], bytes(5)),
        "infer_shared": shared()[0],
        "infer_shared_memory": shared()[1],
    }


if __name__ == "__main__":
    for name, data in messages().items():
        Path(__file__).with_name(f"{name}.bin").write_bytes(data)
