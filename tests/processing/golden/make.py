"""Make `pictures.npz`: what PIL, OpenCV, torchvision and LeRobot make of one small picture.

    python tests/processing/golden/make.py

Needs pillow, opencv-python-headless, torch, torchvision and lerobot; the tests that read the file need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from chunkwise.engines._lerobot import import_lerobot

Picture = NDArray[np.uint8]
SIZES = {"smaller": (28, 28), "larger": (60, 80), "thin": (60, 20)}
PIL = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
OPENCV = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}


def picture() -> Picture:
    """48 x 64: a ramp, a hard edge, a fine chessboard and noise, with three different colours."""
    y, x = np.mgrid[:48, :64]
    made = np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1)
    made[:16, :20] = 254 * ((x[:16, :20] + y[:16, :20]) % 2)[..., None]
    made[30:, 40:] = [250, 3, 128]
    made[20:30, :30] = np.random.default_rng(6).integers(0, 256, (10, 30, 3))
    return made.astype(np.uint8)


def tensor(image: Picture) -> Any:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def image_of(made: Any) -> Picture:
    if made.is_floating_point():
        made = (made * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())


def padded_before(part: Any) -> Any:
    """As LeRobot's SmolVLA has it, whose own function needs transformers: bars above and on the left."""
    small = functional.interpolate(part, (21, 28), mode="bilinear", align_corners=False)
    return functional.pad(small, (0, 0, 7, 0))


def main() -> None:
    v2 = import_lerobot("torchvision.transforms.v2")
    pi05 = import_lerobot("lerobot.policies.pi05.modeling_pi05")
    image = picture()
    whole, part = tensor(image), tensor(image).float() / 255
    made: dict[str, Any] = {"picture": image}
    for name, (height, width) in SIZES.items():
        for kind, number in PIL.items():
            made[f"pil-{kind}-{name}"] = np.asarray(Image.fromarray(image).resize((width, height), number))
        for kind, number in OPENCV.items():
            if kind != "area" or name == "smaller":
                made[f"opencv-{kind}-{name}"] = cv2.resize(image, (width, height), interpolation=number)
        for kind in ("bilinear", "bicubic"):
            mode = v2.InterpolationMode(kind)
            made[f"torchvision-{kind}-{name}"] = image_of(
                v2.functional.resize(whole, [height, width], interpolation=mode, antialias=True)
            )
            plain = functional.interpolate(part, (height, width), mode=kind, align_corners=False)
            made[f"torch-{kind}-{name}"] = image_of(plain)
        made[f"torchvision_float-bilinear-{name}"] = image_of(
            v2.functional.resize(part, [height, width], antialias=True)
        )
    made["lerobot_smolvla-28"] = image_of(padded_before(part))
    made["lerobot_pi05-28"] = pi05.resize_with_pad_torch(torch.from_numpy(image)[None], 28, 28)[0].numpy()
    crop = v2.Compose([v2.Resize(27, antialias=True), v2.CenterCrop(27)])
    made["torchvision_crop-27"] = image_of(crop(whole))
    made["pil-grey"] = np.asarray(Image.fromarray(image).convert("L"))
    np.savez_compressed(Path(__file__).with_name("pictures.npz"), **made)


if __name__ == "__main__":
    main()
