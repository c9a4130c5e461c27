"""Writes the golden messages beside it by hand: `struct` and `json` alone, nothing of the package.

python tests/wires/golden/gr00t/write.py
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

PIXELS = bytes(range(2 * 3 * 3))
"""An image of 2 x 3 pixels."""
STATE = (0.5, -2.25)
ROWS = ((0.5, -0.25), (1.5, 2.0), (3.0, 4.0))
TASK = "päck the box"
LANGUAGE = "annotation.human.task_description"


def msgpack(value: Any) -> bytes:
    """A value as MessagePack, as short as can be."""
    if value is None:
        return b"\xc0"
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        assert 0 <= value < 128
        return bytes([value])
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, str):
        text = value.encode("utf-8")
        if len(text) < 32:
            return bytes([0xA0 | len(text)]) + text
        return struct.pack(">BB", 0xD9, len(text)) + text
    if isinstance(value, bytes):
        if len(value) < 256:
            return struct.pack(">BB", 0xC4, len(value)) + value
        return struct.pack(">BH", 0xC5, len(value)) + value
    if isinstance(value, list):
        assert len(value) < 16
        return bytes([0x90 | len(value)]) + b"".join(map(msgpack, value))
    assert isinstance(value, dict) and len(value) < 16
    return bytes([0x80 | len(value)]) + b"".join(msgpack(part) for item in value.items() for part in item)


def npy(dtype: str, shape: tuple[int, ...], data: bytes) -> dict[Any, Any]:
    """An array as N1, N1.5 and N1.6 write it."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".encode("ascii")
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117) + b"\n"
    assert len(head) == 128
    return {"__ndarray_class__": True, "as_npy": head + data}


def nd(dtype: str, shape: tuple[int, ...], data: bytes) -> dict[Any, Any]:
    """An array as N1.7 writes it."""
    return {b"nd": True, b"type": dtype, b"kind": b"", b"shape": list(shape), b"data": data}


def floats(*numbers: float) -> bytes:
    """Float32, little-endian."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def asked(array: Any, options: Any = None) -> dict[str, Any]:
    """`get_action` of N1.6 and N1.7."""
    observation = {
        "video": {"head": array("|u1", (1, 1, 2, 3, 3), PIXELS)},
        "state": {"arm": array("<f4", (1, 1, 2), floats(*STATE))},
        "language": {LANGUAGE: [[TASK]]},
    }
    return {"endpoint": "get_action", "data": {"observation": observation, "options": options}}


def modality(marker: str, keys: list[str], steps: int, text: bool = False) -> dict[str, Any]:
    """A modality's configuration."""
    plain = {"delta_indices": list(range(steps)), "modality_keys": keys}
    return {marker: True, "as_json": json.dumps(plain) if text else plain}


def messages() -> dict[str, bytes]:
    """Every message, by the name of its file."""
    rows = floats(*ROWS[0], *ROWS[1], *ROWS[2])
    flat = {
        "video.head": npy("|u1", (1, 2, 3, 3), PIXELS),
        "state.arm": npy("<f4", (1, 2), floats(*STATE)),
        LANGUAGE: [TASK],
    }
    named = {"video": ["head"], "state": ["arm"], "action": ["arm"], "language": [LANGUAGE]}
    made: dict[str, Any] = {
        "n17_asked": asked(nd),
        "n16_asked": asked(npy),
        "n15_asked": {"endpoint": "get_action", "data": flat},
        "n17_acted": [{"arm": nd("<f4", (1, 3, 2), rows)}, {}],
        "n16_acted": [{"arm": npy("<f4", (1, 3, 2), rows)}, {}],
        "n15_acted": {"action.arm": npy("<f4", (3, 2), rows)},
        "modalities_asked": {"endpoint": "get_modality_config"},
        "ping": {"endpoint": "ping"},
        "kill": {"endpoint": "kill"},
        "reset": {"endpoint": "reset", "data": {"options": None}, "api_token": "s3cret"},
        "pong": {"status": "ok", "message": "Server is running"},
        "unauthorised": {"error": "Unauthorized: Invalid API token"},
    }
    for name, marker in (("n17", "__ModalityConfig__"), ("n16", "__ModalityConfig_class__")):
        made[f"{name}_modalities"] = {
            kind: modality(marker, keys, 3 if kind == "action" else 1) for kind, keys in named.items()
        }
    made["n15_modalities"] = {
        kind: modality(
            "__ModalityConfig_class__",
            keys if kind == "language" else [f"{kind}.{key}" for key in keys],
            3 if kind == "action" else 1,
            text=True,
        )
        for kind, keys in named.items()
    }
    return {name: msgpack(value) for name, value in made.items()}


if __name__ == "__main__":
    for name, data in messages().items():
        Path(__file__).with_name(f"{name}.bin").write_bytes(data)
