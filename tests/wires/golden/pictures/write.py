"""Draws the picture beside it, and makes of it with Pillow what policies read; nothing of the package.

python tests/wires/golden/pictures/write.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, RADIUS = 240, 320, 60
SIDE = 64
"""Of the square that the policies read."""


def drawn() -> np.ndarray:
    """A white disc on dark grey; red, green and blue in the corners, from the top left on, clockwise."""
    picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    picture[(row - HEIGHT / 2 + 0.5) ** 2 + (column - WIDTH / 2 + 0.5) ** 2 <= RADIUS**2] = 255
    picture[:64, :64] = 255, 0, 0
    picture[:64, -64:] = 0, 255, 0
    picture[-64:, -64:] = 0, 0, 255
    return picture


def letterboxed(picture: np.ndarray, at: int) -> np.ndarray:
    """The whole of it in a black square, `at` rows from the top."""
    image = Image.fromarray(picture).resize((SIDE, SIDE * HEIGHT // WIDTH), Image.Resampling.BILINEAR)
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    square[at : at + image.height] = np.asarray(image)
    return square


def cropped(picture: np.ndarray) -> np.ndarray:
    """The middle of it, as high as it is."""
    image = Image.fromarray(picture).resize((round(SIDE * WIDTH / HEIGHT), SIDE), Image.Resampling.BILINEAR)
    left = (image.width - SIDE) // 2
    return np.asarray(image)[:, left : left + SIDE]


def main() -> None:
    """Write them."""
    picture = drawn()
    made = {
        "drawn": picture,
        "letterbox": letterboxed(picture, (SIDE - SIDE * HEIGHT // WIDTH) // 2),
        "letterbox_below": letterboxed(picture, 0),
        "crop": cropped(picture),
    }
    for name, array in made.items():
        Image.fromarray(array).save(Path(__file__).with_name(f"{name}.png"), optimize=True)


if __name__ == "__main__":
    main()
