"""LeRobot, imported: late, and beside a torch whose torchvision has no compiled operators; and its checkpoints."""

from __future__ import annotations

import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from chunkwise.plugins import require

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""What a checkpoint has at least."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""What torchvision's Python describes when it is imported, and its compiled part should have declared before."""

_declared: list[Any] = []  # a torch.library.Library declares only as long as it lives
_importing = threading.Lock()


def import_lerobot(module: str = "lerobot") -> Any:
    """LeRobot, or a module of it, such as ``lerobot.policies.factory``.

    LeRobot imports torchvision, and torchvision cannot be imported where its compiled operators do not match the
    installed torch, as beside the CPU build of torch.  LeRobot's policies use none of those operators, so there,
    and only there, they are declared without being defined: calling one is still an error.

    Raises:
        MissingExtra: torch, torchvision or lerobot is not installed.
    """
    with _importing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others' modules say while they are imported is no news of ours
        torch = require("torch", extra="torch")
        _import_torchvision(torch)
        return require(module, extra="lerobot")


def _import_torchvision(torch: Any) -> None:
    try:
        require("torchvision", extra="lerobot")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            library.define(operator)
        _declared.append(library)
        require("torchvision", extra="lerobot")


def checkpoint_folder(path: str) -> Path:
    """The directory of a checkpoint.

    Args:
        path: of a directory; or an id on Hugging Face's hub, ``organisation/name``, whose JSON and safetensors
            files are downloaded, where they were not before.  A directory that is there is never taken for an id,
            nor is anything that begins like a path: with ``/``, ``.``, ``~`` or the name of a directory.

    Raises:
        FileNotFoundError: there is no such directory, it is no checkpoint, or the hub has none of that name.
        MissingExtra: an id is given, and huggingface_hub is not installed.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _with_config(folder)
    if folder.exists():
        raise FileNotFoundError(f"{path} is a file; name the directory of the checkpoint that holds {CONFIG}")
    if not HUB_ID.fullmatch(path):
        raise FileNotFoundError(f"there is no directory {path}, nor is it a hub id: organisation/name")
    if Path(path).parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path}, but a {Path(path).parent}/: is it mistyped?")
    hub = require("huggingface_hub", extra="lerobot")
    try:
        found = hub.snapshot_download(path, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # of the hub, of HTTP, of the network: dozens of kinds
        raise FileNotFoundError(
            f"there is no directory {path}, and the hub gives no such model: {type(error).__name__}: {error}"
        ) from error
    return _with_config(Path(found))


def _with_config(folder: Path) -> Path:
    if (folder / CONFIG).is_file():
        return folder
    below = sorted(found.parent for found in folder.glob(f"**/pretrained_model/{CONFIG}"))
    cure = f"; there is one in {below[-1]}" if below else "; a checkpoint of LeRobot's has one"
    raise FileNotFoundError(f"{folder} has no {CONFIG}{cure}")
