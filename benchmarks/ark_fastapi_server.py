"""A minimal ARK server to the published recipe, to stand beside ours in a benchmark.

    pip install fastapi uvicorn python-multipart opencv-python-headless      # of the benchmark alone
    python benchmarks/ark_fastapi_server.py --port 8000

The recipe: FastAPI with one form field for the state, one for the task and three optional files; each picture decoded
with OpenCV as it comes (Pillow where that is not installed), turned into RGB, float32 and 0 to 1; a model that is called
in the handler; one list of numbers back.  The model here answers the state, so what is measured is everything else.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def decoder() -> Callable[[bytes], Picture]:
    """What turns a JPEG into float32 RGB ``(height, width, 3)`` of 0 to 1."""
    try:
        import cv2
    except ImportError:
        from PIL import Image

        def with_pillow(data: bytes) -> Picture:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255

        return with_pillow

    def with_opencv(data: bytes) -> Picture:
        found = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.float32) / 255

    return with_opencv


class StateModel:
    """Answers the state that it is shown, as a robot that stays where it is."""

    def predict(self, state: NDArray[np.float64], images: dict[str, Picture]) -> NDArray[np.float64]:
        return state


def application() -> Any:
    """The FastAPI application."""
    import fastapi

    app, model, decode = fastapi.FastAPI(), StateModel(), decoder()

    async def predict(state, task, cam_high, cam_left_wrist, cam_right_wrist):  # type: ignore[no-untyped-def]
        try:
            files = dict(zip(CAMERAS, (cam_high, cam_left_wrist, cam_right_wrist), strict=True))
            images = {name: decode(await item.read()) for name, item in files.items() if item is not None}
            action = model.predict(np.asarray(json.loads(state)), images)
        except Exception as error:
            raise fastapi.HTTPException(500, str(error)) from error
        return {"action": action.tolist()}

    # Given here and not in the signature, whose annotations would have to be importable without FastAPI.
    upload = fastapi.UploadFile | None
    predict.__annotations__ = {"state": str, "task": str, **dict.fromkeys(CAMERAS, upload)}
    predict.__defaults__ = (*(fastapi.Form(...) for _ in range(2)), *(fastapi.File(None) for _ in CAMERAS))
    app.post("/predict")(predict)
    return app


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """The shortest application: reads the body, looks at nothing, answers 14 zeros."""
    more = scope["type"] == "http"
    while more:
        more = (await receive())["more_body"]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"action": [0.0] * 14}).encode()})


def main() -> None:
    """Serve on a port of this machine until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--access-log", action="store_true", help="as uvicorn is by default; slower")
    parser.add_argument("--bare", action="store_true", help="uvicorn alone: what any server on it costs")
    given = parser.parse_args()
    served = bare if given.bare else application()
    uvicorn.run(served, host="127.0.0.1", port=given.port, access_log=given.access_log, log_level="warning")


if __name__ == "__main__":
    main()
