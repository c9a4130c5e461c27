"""A process that wants a processor when it is told ``1`` on its standard input, and rests when it is told ``0``.

Run as a file, by `outside.py`; it ends with its input, and so with whoever started it.
"""

from __future__ import annotations

import os
import select


def main() -> None:
    """Work or wait, as it is told."""
    works = False
    while True:
        if select.select([0], [], [], 0 if works else None)[0]:
            word = os.read(0, 1)
            if not word:
                return
            works = word == b"1"
        if works:
            sum(range(50_000))


if __name__ == "__main__":
    main()
