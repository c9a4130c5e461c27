"""Capture what the genuine OpenArm nodes send a policy server: the request's line and its Arrow file.

``python inference/capture.py FOLDER`` with an environment of ``requirements-dora-*.txt`` runs one dataflow per
case (genuine quitter, observer and local-policy-server; simulated arms and cameras with tiny images) against a
server that keeps the first requests and answers every one with a plan that stays where the arms are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pyarrow

CASES = {
    "bimanual": ("right,left", ""),
    "bimanual_qpos": ("right,left", "--qpos-struct"),
    "right": ("right", ""),
    "right_qpos": ("right", "--qpos-struct"),
    "left": ("left", ""),
}
"""Case: arms, and further arguments of the simulation."""
KEPT = {0: "first", 1: "second"}
"""Requests that are kept: the first one says reset, the second one does not."""


def dataflow(arms: str, more: str, socket_path: str) -> str:
    """Arms, cameras, observer and policy server; nobody executes the actions."""
    node = f"-m chunkwise.robots.dora simulation --cameras flat --camera-size 6x8 --head-size 4x10 {more}".strip()
    sides = arms.split(",")
    wrists = "".join(
        f"      arm_{side}: {{source: simulation/position_{side}, queue_size: 1}}\n"
        f"      camera_wrist_{side}: {{source: simulation/camera_wrist_{side}, queue_size: 1}}\n"
        for side in sides
    )
    return f"""nodes:
  - id: controller
    path: python
    args: -m chunkwise.robots.dora controller --episodes 1 --seconds 1 --pause 0.5
    outputs: [command]
  - id: simulation
    path: python
    args: {node}
    inputs:
      command: controller/command
    outputs:
      - position_right
      - position_left
      - phase_classifier_result
      - camera_wrist_right
      - camera_wrist_left
      - camera_head_left
      - camera_head_right
      - camera_ceiling
  - id: quittable-tick
    path: dora-openarm-quitter
    inputs:
      command: controller/command
      tick: {{source: dora/timer/millis/33, queue_size: 1}}
    outputs: [tick]
  - id: observer
    path: dora-openarm-observer
    env: {{ARMS: "{arms}"}}
    inputs:
      tick: {{source: quittable-tick/tick, queue_size: 1}}
      command: controller/command
{wrists}      camera_head_left: {{source: simulation/camera_head_left, queue_size: 1}}
      camera_head_right: {{source: simulation/camera_head_right, queue_size: 1}}
      camera_ceiling: {{source: simulation/camera_ceiling, queue_size: 1}}
      phase_classifier_result: {{source: simulation/phase_classifier_result, queue_size: 1}}
    outputs: [observation]
  - id: bridge
    path: dora-openarm-local-policy-server
    env: {{SOCKET: "{socket_path}"}}
    inputs:
      observation: {{source: observer/observation, queue_size: 1}}
    outputs: [actions]
"""


def serve(listener: socket.socket, folder: Path, case: str) -> None:
    """Keep requests, and answer them until the bridge hangs up."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rw") as lines:
        for number, line in enumerate(iter(lines.readline, "")):
            path = Path(json.loads(line)["data_path"])
            if number in KEPT:
                stem = f"{case}_{KEPT[number]}"
                (folder / f"{stem}.json").write_bytes(line.encode())
                shutil.copyfile(path, folder / f"{stem}.arrow")
            lines.write(json.dumps(stay(path)) + "\n")
            lines.flush()


def stay(path: Path) -> dict[str, object]:
    """Eight rows, 30 a second, that hold the arms where the observation has them."""
    with pyarrow.memory_map(str(path)) as source:
        position = pyarrow.ipc.open_file(source).get_batch(0).column("position")[-1].as_py()
    joints = [value for part in position for value in (part["qpos"] if isinstance(part, dict) else [part])]
    return {"interval": 33333333, "cutoff_hz": 15, "positions": [joints] * 8}


def main() -> None:
    """Capture every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for case, (arms, more) in CASES.items():
        with tempfile.TemporaryDirectory() as scratch, socket.socket(socket.AF_UNIX) as listener:
            socket_path = f"{scratch}/policy.socket"
            listener.bind(socket_path)
            listener.listen()
            server = threading.Thread(target=serve, args=(listener, folder, case), daemon=True)
            server.start()
            Path(scratch, "dataflow.yaml").write_text(dataflow(arms, more, socket_path), encoding="utf-8")
            command = ["dora", "run", "dataflow.yaml", "--stop-after", "10s"]
            ran = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
            server.join(2.0)
            print(f"{case}: dora run ended with {ran.returncode}", flush=True)
            if ran.returncode:
                print(ran.stdout[-6000:], ran.stderr[-3000:])


if __name__ == "__main__":
    main()
