"""Command-line arguments whose mistakes are one line, and the dotted ones that are an adapter's options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one line, with the nearest flag there is."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"chunkwise {prog}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments.

        Raises:
            UsageError: an argument that is not known, or does not have the value it needs.
        """
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag[:2] == "--"]
            raise UsageError(f"unknown argument {unknown[0]!r}{nearest(unknown[0].partition('=')[0], flags)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def dotted(argv: Sequence[str], kinds: Iterable[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Take ``--<kind>.<option> value`` out of the arguments.

    A flag that is followed by another flag, or by nothing, is a switch and says ``true``.

    Returns:
        The arguments that are left, and the options' texts by kind and name.

    >>> dotted(["--robot.arms", "1", "--seconds", "2", "--robot.lockstep"], ["robot"])
    (['--seconds', '2'], {'robot': {'arms': '1', 'lockstep': 'true'}})
    """
    starts = tuple(f"--{kind}." for kind in kinds)
    rest: list[str] = []
    found: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith(starts):
            rest.append(word)
            continue
        flag, given, text = word.partition("=")
        if not given:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        kind, _, name = flag[2:].partition(".")
        found[kind][name.replace("-", "_")] = text
    return rest, found
