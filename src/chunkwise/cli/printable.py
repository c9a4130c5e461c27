"""What somebody else wrote, for a terminal."""

from __future__ import annotations

import re

COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Colours, and whatever else a terminal takes for a word to itself."""


def printable(text: str) -> str:
    """The text without what a terminal would obey instead of showing it.

    >>> printable("\\x1b[31mred\\x1b[0m\\thot\\x07")
    'red hot\\ufffd'
    """
    text = COLOURS.sub("", text).replace("\t", " ")
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)
