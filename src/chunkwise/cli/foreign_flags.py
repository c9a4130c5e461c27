"""Flags of other programs as flags of ``chunkwise run``: those of the IGRIS engine's ``run_inference.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chunkwise.cli.parser import Parser
from chunkwise.options import UsageError
from chunkwise.processing.igris import MAX_BYTES, runtime_params

ALGORITHMS: Final = {
    "sequential": ("--strategy", "sync", "--worker", "inline"),
    "rtc": ("--strategy", "rtc", "--worker", "process"),
}
PATHS: Final = {
    "--policy-yaml-path": ("--policy.config",),
    "--inference-runtime-params-config": ("--robot.params", "--policy.params"),
    "--inference-runtime-topics-config": ("--robot.topics_file",),
}
ALGORITHM: Final = "--inference-algorithm"
HELP: Final = {
    ALGORITHM: "sequential: --strategy sync --worker inline, policy_update_period rows of each chunk; "
    "rtc: --strategy rtc --worker process",
    "--policy-yaml-path": "--policy igris --policy.config FILE; also -P",
    "--inference-runtime-params-config": "--robot.params FILE --policy.params FILE",
    "--inference-runtime-topics-config": "--robot.topics_file FILE",
}


def add_flags(parser: Parser) -> None:
    """Show them in a command's help; `translated` has taken them away before it is parsed."""
    group = parser.add_argument_group("as the IGRIS inference engine has them")
    for flag, text in HELP.items():
        metavar = "|".join(ALGORITHMS) if flag == ALGORITHM else "FILE"
        group.add_argument(flag, metavar=metavar, help=text)


def translated(argv: Sequence[str]) -> list[str]:
    """The arguments with these flags written as ours, in front, so that what is said beside them wins.

    Underscores and hyphens are the same in them, and ``--flag=value`` is ``--flag value``.

    Raises:
        UsageError: a flag without a value, twice, an algorithm that there is not, or one beside ``--strategy``.
        IgrisFileError: the runtime parameters of ``sequential`` are not what they must be.

    >>> translated(["--inference_algorithm", "rtc", "--seconds", "5"])
    ['--strategy', 'rtc', '--worker', 'process', '--seconds', '5']
    """
    found, rest = _taken(argv)
    front: list[str] = []
    reads_params = "--policy-yaml-path" in found or "igris" in rest or "--policy=igris" in rest
    if "--policy-yaml-path" in found:
        front += ["--policy", "igris"]
    for flag, ours in PATHS.items():
        for option in ours if flag in found else ():
            if option != "--policy.params" or reads_params:  # another policy reads no such file
                front += [option, found[flag]]
    if ALGORITHM in found:
        front += _algorithm(found[ALGORITHM], rest, found.get("--inference-runtime-params-config"))
    return front + rest


def _taken(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """These flags with their values, and what is left."""
    found: dict[str, str] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        spelled, equals, value = word.partition("=")
        flag = "--policy-yaml-path" if spelled == "-P" else "--" + spelled[2:].replace("_", "-")
        if spelled[:1] != "-" or flag not in HELP:
            rest.append(word)
            continue
        if not equals:
            if not words or words[0].startswith("-"):
                raise UsageError(f"{spelled} needs a value")
            value = words.pop(0)
        if flag in found:
            raise UsageError(f"{spelled} is there twice")
        found[flag] = value
    return found, rest


def _algorithm(name: str, rest: Sequence[str], params: str | None) -> list[str]:
    if name not in ALGORITHMS:
        raise UsageError(f"{ALGORITHM} must be one of {', '.join(ALGORITHMS)}, got {name!r}")
    if any(word.partition("=")[0] == "--strategy" for word in rest):
        raise UsageError(f"{ALGORITHM} {name} says the strategy already; leave --strategy out")
    words = list(ALGORITHMS[name])
    if name == "sequential" and params is not None:
        words += ["--strategy.execution_horizon", str(_update_period(Path(params).expanduser()))]
    return words


def _update_period(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return runtime_params(data, str(path)).policy_update_period
