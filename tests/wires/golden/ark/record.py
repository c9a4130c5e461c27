"""Records what the library `requests` puts on the wire when it is called as ARK's published client calls it.

python tests/wires/golden/ark/record.py     # writes *.http beside itself
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import numpy as np
import requests
import simplejpeg

HERE = Path(__file__).parent
STATE = [round(0.1 * index - 0.65, 2) for index in range(14)]
COLOURS = {"cam_high": (255, 0, 0), "cam_left_wrist": (0, 255, 0), "cam_right_wrist": (0, 0, 255)}


def jpeg(colour: tuple[int, int, int]) -> bytes:
    """An 8 x 8 patch of one colour, at quality 100 with 4:2:0 chroma, as the client encodes."""
    patch = np.full((8, 8, 3), colour, dtype=np.uint8)
    data: bytes = simplejpeg.encode_jpeg(patch, 100, "RGB", "420")
    return data


def answer(listener: socket.socket, kept: list[bytes]) -> None:
    """Read one request to its end, and answer it."""
    connection, _ = listener.accept()
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(
            next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))[15:]
        )
        while len(body) < length:
            piece = connection.recv(1 << 16)
            data, body = data + piece, body + piece
        kept.append(data)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{"action": []}')


def record(cameras: list[str]) -> bytes:
    """The bytes of one call with those cameras."""
    kept: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener, kept))
        thread.start()
        files = {name: (name + ".jpg", jpeg(COLOURS[name]), "image/jpeg") for name in cameras}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
        data = {"state": json.dumps(STATE), "task": "balcony_pick_place"}
        requests.post(url, data=data, files=files, timeout=30)
        thread.join()
    return kept[0]


if __name__ == "__main__":
    for name, cameras in {"three": list(COLOURS), "one": ["cam_high"], "none": []}.items():
        (HERE / f"{name}.http").write_bytes(record(cameras))
