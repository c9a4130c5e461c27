"""The command line: ``chunkwise COMMAND ...``, one file per command, imported when it is run.

Exit codes: 0 done, 1 it went wrong, 2 it was asked for wrongly, 130 interrupted from the keyboard.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

COMMANDS = {
    "demo": "a two-armed OpenArm in simulation under three strategies, with a table and pictures",
    "run": "drive a robot with a policy, and report how it went",
    "serve": "let robots elsewhere ask a policy, over any number of wires at once",
    "engine": "serve a policy's network alone, to robots that do what stands before and after it",
    "up": "drive a fleet on a Ray cluster as its file says, or a robot as its robot_config says",
    "status": "what runs on a Ray cluster: robots, policies, nodes",
    "chaos": "run a robot and a policy under faults, and show what each cost",
    "check": "see whether a policy fits a robot, without moving it",
    "export": "make a policy's network run without torch, and see that it answers the same",
    "record-wire": "keep every byte between a client and a server elsewhere on a tape",
    "replay-wire": "play a tape's client against a live server, and show what is answered differently",
    "list": "the robots, policies, strategies, workers and engines there are",
}

USAGE = """usage: chunkwise COMMAND [options]

Run any robot policy, on any robot, in real time.

{commands}

chunkwise COMMAND --help says more and has examples; chunkwise --version says which version this is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]  # list() here may be the command of that name
    debug = "--debug" in words
    try:
        code = _dispatch([word for word in words if word != "--debug"])
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # argparse's --help
        return leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader went away, as in `chunkwise list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _say(error)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<13}{text}" for name, text in COMMANDS.items())
        print(USAGE.format(commands=listed), end="")
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        from importlib.metadata import version

        print(f"chunkwise {version('chunkwise')}")
        return 0
    if name not in COMMANDS:
        from chunkwise.contract.errors import nearest
        from chunkwise.options import UsageError

        raise UsageError(f"no command {name!r}{nearest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"chunkwise.cli.{name.replace('-', '_')}")
    _end_on_termination()
    return int(command.main(rest))


def _end_on_termination() -> None:
    """SIGTERM, or a terminal that goes away, ends a run like Ctrl-C: the robot is let go, the report written."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _say(error: Exception) -> int:
    """One line for what the caller can cure, and the kind of error before it for what we did not foresee."""
    from chunkwise.contract import InterfaceValidationError, PolicyFailed, RobotFailed
    from chunkwise.options import UsageError
    from chunkwise.plugins import MissingExtra, UnknownAdapter

    asked_wrongly = isinstance(error, (UsageError, InterfaceValidationError, UnknownAdapter, MissingExtra))
    text = str(error) if asked_wrongly else f"{type(error).__name__}: {error} ({_where(error)}; --debug shows all)"
    print("\n".join([f"chunkwise: {text}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return 2 if asked_wrongly and not isinstance(error, (RobotFailed, PolicyFailed)) else 1


def _where(error: BaseException) -> str:
    """File, line and function in which an error was raised; a user's own, as often as not."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "nowhere"
