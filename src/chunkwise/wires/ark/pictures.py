"""The pictures of the protocol: JPEG as every encoder writes it, and PNG.

What the first and last bytes tell is checked at once, so that a bad picture is a 400 even where it would never
have been looked at.  Decoding is for later, and only where a plan is made.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.wires import WireError

Pixels = NDArray[np.uint8]

PNG: Final = b"\x89PNG\r\n\x1a\n"
QUALITY: Final = 100
_SOF: Final = frozenset((0xC0, 0xC1, 0xC2))
"""Baseline, extended and progressive: what decoders decode."""
_OTHER_SOF: Final = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers without a length."""
_MAX_SEGMENTS: Final = 256
_PADDING: Final = 32
"""The end of a JPEG may have some bytes behind it, for cameras fill up to a block."""


def check_picture(data: bytes, max_side: int) -> None:
    """Check what is cheap to check: kind, size, channels, and that the end is there.

    Raises:
        WireError: no picture that can be decoded.
    """
    if not data:
        raise WireError("it is empty")
    if data.startswith(PNG):
        height, width = _png_size(data)
    else:
        height, width = _jpeg_size(data)
    if not (0 < height <= max_side and 0 < width <= max_side):
        raise WireError(f"{height} x {width} pixels; 1 to {max_side} are taken")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width, from the frame header."""
    if not data.startswith(b"\xff\xd8"):
        raise WireError("neither JPEG nor PNG")
    if b"\xff\xd9" not in data[-_PADDING:]:
        raise WireError("a JPEG without its end")
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # a filling byte, or nothing behind it
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD8, 0xD9, 0xDA):
            break
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SOF:
            return _frame(data[at + 4 : at + 2 + size])
        if marker in _OTHER_SOF:
            raise WireError("a JPEG that is lossless, hierarchical or arithmetic")
        if size < 2:
            break
        at += 2 + size
    raise WireError("a JPEG without a frame header")


def _frame(header: bytes) -> tuple[int, int]:
    if len(header) < 6:
        raise WireError("a JPEG whose frame header is cut off")
    precision, height, width, components = struct.unpack_from(">BHHB", header)
    if precision != 8 or components not in (1, 3) or len(header) < 6 + 3 * components:
        raise WireError(f"a JPEG of {components} channels of {precision} bits; 1 or 3 of 8 are taken")
    return height, width


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise WireError("a PNG without its header")
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    if depth > 8 or kind not in (0, 2, 3, 4, 6):
        raise WireError(f"a PNG of {depth} bits and colour type {kind}")
    return height, width


class Codec:
    """Encodes and decodes, with simplejpeg or else Pillow; both give the same pixels.

    Raises:
        MissingExtra: neither is installed.
    """

    def __init__(self) -> None:
        self._fast: Any = None
        self._pil: Any = None
        try:
            self._fast = plugins.require("simplejpeg", extra="ark")
        except plugins.MissingExtra:
            self._pil = plugins.require("PIL.Image", extra="ark")

    def decode(self, data: bytes) -> Pixels:
        """RGB of shape ``(height, width, 3)``; grey becomes three channels alike.

        Raises:
            WireError: it cannot be decoded.
        """
        try:
            if self._fast is None or data.startswith(PNG):
                return self._decode_slowly(data)
            made: Pixels = self._fast.decode_jpeg(data, "RGB")
            return made
        except plugins.MissingExtra as error:
            raise WireError(f"a PNG: {error}") from error
        except (ValueError, OSError, SyntaxError, EOFError, struct.error, zlib.error, MemoryError) as error:
            raise WireError(f"it cannot be decoded: {str(error)[:200]}") from error

    def encode(self, name: str, image: NDArray[Any]) -> bytes:
        """JPEG of the best quality, with colours at half the size, as the protocol's client makes it.

        Args:
            name: of the camera, for errors.
            image: uint8 RGB ``(height, width, 3)``.

        Raises:
            InterfaceValidationError: it is of another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InterfaceValidationError(
                f"image {name!r} must be uint8 (height, width, 3), got {image.dtype} {image.shape}"
            )
        if max(image.shape) > 1 << 15:
            raise InterfaceValidationError(f"image {name!r} of {image.shape} is too large for a JPEG")
        pixels = np.ascontiguousarray(image)
        if self._fast is not None:
            data: bytes = self._fast.encode_jpeg(pixels, QUALITY, "RGB", "420")
            return data
        buffer = io.BytesIO()
        self._pil.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=2)
        return buffer.getvalue()

    def _decode_slowly(self, data: bytes) -> Pixels:
        if self._pil is None:
            self._pil = plugins.require("PIL.Image", extra="ark")
        with self._pil.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            made: Pixels = np.array(picture.convert("RGB"))
        return made
