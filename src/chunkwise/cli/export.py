"""``chunkwise export``: a policy's network for a runtime without torch, checked against the original."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chunkwise.cli import exporting_om
from chunkwise.cli.exporting import DiffersError, Job, Measured, export
from chunkwise.cli.parser import Parser, dotted
from chunkwise.contract.errors import nearest
from chunkwise.engines._exported import FORMATS, is_exported
from chunkwise.options import UsageError
from chunkwise.recording import EpisodeReader, RecordingError

EXAMPLES = """\
  chunkwise export --policy outputs/train/act/checkpoints/last/pretrained_model --to onnx
  chunkwise export --policy lerobot/act_aloha_sim_transfer_cube_human --to openvino --out act_ov
  chunkwise export --policy my_act --to onnx --recording episode.mcap --tolerance 1e-5
  chunkwise export --policy demo --to openvino --out demo_ov
  chunkwise export --policy flow --policy.path my_flow --policy.field my_flow.py:Velocity --to onnx

and then on the robot, where there is neither torch nor lerobot:
  chunkwise run --robot my_robot.py:MyRobot --policy act_ov
  chunkwise run --robot openarm_sim --policy demo --policy.model demo_ov
"""


def main(argv: Sequence[str]) -> int:
    """Export, compare, and measure; 1 where the exported network differs by more than the tolerance."""
    if exporting_om.asked_for(argv):
        return exporting_om.main(argv)
    try:
        job, force = _read(argv)
        _see_that_free(job.out, force)
        with _whole_or_not_at_all(job.out) as folder:
            exported, measured = export(job, folder)
    except DiffersError as error:
        print(f"chunkwise: {error}; nothing was written", file=sys.stderr)
        return 1
    except (FileNotFoundError, RecordingError) as error:
        raise UsageError(str(error)) from error
    print(_table(measured, job.threads))
    print(f"wrote {job.out}, {_megabytes(job.out)}: {exported.policy_type} for the engine {exported.engine}")
    return 0


def _read(argv: Sequence[str]) -> tuple[Job, bool]:
    """What is asked for, and whether by force."""
    words, options = dotted(argv, ["policy"])
    about = "Make a policy's network run without torch, and see that it answers the same."
    parser = Parser("export", about, EXAMPLES)
    parser.add_argument("--policy", metavar="DIR", help="a LeRobot ACT checkpoint or its hub id, demo, or flow")
    parser.add_argument(
        "--to", metavar="FORMAT", help=f"{', '.join(FORMATS)}: the engine that will run it; {exporting_om.OM}"
    )
    parser.add_argument("--out", metavar="DIR", help="the directory to make (default: the policy's name-FORMAT)")
    parser.add_argument("--recording", metavar="FILE", help="compare on its frames too, through the whole policy")
    parser.add_argument("--policy.OPTION", metavar="X", help="of the policy that reads the recording: cameras ...")
    parser.add_argument("--tolerance", metavar="X", default="1e-4", help="largest difference (default 1e-4)")
    parser.add_argument("--threads", metavar="N", default="1", help="to measure with, aoti's for good (default 1)")
    parser.add_argument("--force", action="store_true", help="replace an exported directory that is there")
    parsed = parser.parse(words)
    for name in ("policy", "to"):
        if getattr(parsed, name) is None:
            raise UsageError(f"--{name} is missing")
    known = [*FORMATS, exporting_om.OM]
    if parsed.to not in known:
        raise UsageError(f"--to {parsed.to!r}{nearest(parsed.to, known)}; there are: {', '.join(known)}")
    if options["policy"] and not parsed.recording and parsed.policy != "flow":
        raise UsageError(f"--policy.{next(iter(options['policy']))} is for --recording FILE, which is missing")
    policy = Path(parsed.policy)
    beside = policy.resolve().parent if policy.is_dir() else Path()
    job = Job(
        policy=parsed.policy,
        to=parsed.to,
        out=Path(parsed.out) if parsed.out else beside / f"{policy.resolve().name}-{parsed.to}",
        recording=EpisodeReader(parsed.recording) if parsed.recording else None,
        tolerance=_number(parsed.tolerance, "--tolerance"),
        threads=int(_number(parsed.threads, "--threads", least=1)),
        options=options["policy"],
    )
    return job, parsed.force


def _number(text: str, flag: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise UsageError(f"{flag} must be a number of at least {least:g}, got {text!r}")
    return value


def _see_that_free(out: Path, force: bool) -> None:
    """Nothing is ever replaced but an exported directory, and that only by force."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_exported(out):
        raise UsageError(f"{out} is there, and is no exported directory: name another one with --out")
    if not force:
        raise UsageError(f"{out} is there: --force replaces it, --out names another one")


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A new directory to write into, which takes its name when all went well, and is gone when not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(old)
        folder.rename(out)
    finally:
        for rest in (folder, old):
            shutil.rmtree(rest, ignore_errors=True)


def _table(measured: Sequence[Measured], threads: int) -> str:
    """The engines, one a line; each beside the original of the same network."""
    title = f"{threads} thread{'s' * (threads > 1)}"
    lines = [f"  {title:<28}{'p50 ms':>10}{'x original':>12}{'max |difference|':>18}"]
    lines += [
        f"  {one.name:<28}{1e3 * one.median_s:>10.2f}{one.ratio:>12.2f}{one.difference:>18.1e}" for one in measured
    ]
    return "\n".join(lines)


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB"
