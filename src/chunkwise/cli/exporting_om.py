"""``chunkwise export --to om-manifest``: list in ``config.om.json`` what was compiled of a LeRobot checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from chunkwise.cli.parser import Parser
from chunkwise.contract.errors import nearest
from chunkwise.engines._compiled import read_policy
from chunkwise.engines._om_manifest import EXECUTION, OM_MANIFEST, WORKER, normalised, write_manifest
from chunkwise.options import UsageError

OM = "om-manifest"
EXAMPLES = """\
  chunkwise export --policy act/pretrained_model --to om-manifest
  chunkwise export --policy pi05 --to om-manifest --artifact vlm=om/vlm.om --artifact action_expert=om/expert.om
  chunkwise export --policy act --to om-manifest --device ascend_om_3403 --artifact worker=svp_worker

and then on the robot, where the weights need not be:
  chunkwise run --robot my_robot.py:MyRobot --policy act --device ascend_om
"""
PLACES = ("", "om")
"""Folders of a policy's directory where a file of a role's own name is found."""


def asked_for(argv: Sequence[str]) -> bool:
    """Whether the command line is about a manifest."""
    return f"--to={OM}" in argv or ("--to", OM) in pairwise(argv)


def main(argv: Sequence[str]) -> int:
    """Write it beside ``config.json``, if every file that it lists is there."""
    about = f"Write {OM_MANIFEST} into a policy's directory: its compiled files, what runs them, and their hashes."
    parser = Parser("export", about, EXAMPLES)
    parser.add_argument("--policy", metavar="DIR", help="the policy's directory, with config.json and the files")
    parser.add_argument("--to", metavar="FORMAT", help=OM)
    devices = list(dict.fromkeys(backend for backend, _ in EXECUTION))
    parser.add_argument(
        "--device", metavar="X", default=devices[0], help=f"{' or '.join(devices)} (default the first)"
    )
    parser.add_argument(
        "--artifact",
        metavar="ROLE=FILE",
        action="append",
        default=[],
        help="a file in the directory; by default ROLE.om, or worker, there or in om/",
    )
    parser.add_argument("--force", action="store_true", help=f"replace the {OM_MANIFEST} that is there")
    parsed = parser.parse(argv)
    if parsed.policy is None:
        raise UsageError("--policy is missing")
    device = normalised(parsed.device)
    if device not in devices:
        raise UsageError(f"--device {parsed.device!r}{nearest(device, devices)}; there are: {', '.join(devices)}")
    try:
        policy = read_policy(parsed.policy, device)
        if (policy.folder / OM_MANIFEST).exists() and not parsed.force:
            raise UsageError(f"{policy.folder / OM_MANIFEST} is there: --force replaces it")
        found = _found(policy.folder, EXECUTION.get((device, policy.policy_type), ()))
        given = dict(_artifact(text, policy.folder) for text in parsed.artifact)
        manifest = write_manifest(policy.folder, device, policy.policy_type, found | given)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    listed = ", ".join(f"{role} {artifact.path.name}" for role, artifact in manifest.artifacts.items())
    print(f"wrote {manifest.path}: {policy.policy_type} for {device}, {listed}")
    return 0


def _found(folder: Path, roles: Sequence[str]) -> dict[str, Path]:
    """Files that have the names of their roles."""
    places = {
        role: [folder / place / (role if role == WORKER else f"{role}.om") for place in PLACES] for role in roles
    }
    return {role: path for role, paths in places.items() for path in reversed(paths) if path.is_file()}


def _artifact(text: str, folder: Path) -> tuple[str, Path]:
    """``ROLE=FILE``; a file that is not there as it is written may be in the policy's directory."""
    role, equals, name = text.partition("=")
    if not role or not equals or not name:
        raise UsageError(f"--artifact {text!r}: write ROLE=FILE, as in policy=act.om")
    path = Path(name).expanduser()
    return role, path if path.is_file() else folder / path
