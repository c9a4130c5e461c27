"""Writes the files beside it, with LeRobot's own classes and generated messages.

In an environment with ``lerobot==0.4.4`` and ``grpcio`` (which bring torch and numpy 2)::

    python tests/wires/golden/lerobot/capture.py
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedAction, TimedObservation
from lerobot.datasets.utils import hw_to_dataset_features
from lerobot.transport import services_pb2
from lerobot.transport.utils import send_bytes_in_chunks

HERE = Path(__file__).parent
JOINTS = ["shoulder_pan", "elbow_flex", "gripper"]
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def main() -> None:
    hardware = {**{f"{name}.pos": float for name in JOINTS}, "front": PICTURE.shape}
    features = hw_to_dataset_features(hardware, "observation", use_video=False)
    config = RemotePolicyConfig("act", "somebody/something", features, 4, "cpu")
    keep("setup", services_pb2.PolicySetup(data=pickle.dumps(config)))
    raw = {"shoulder_pan.pos": 0.5, "elbow_flex.pos": np.float32(-1.25), "gripper.pos": 30}
    raw |= {"front": PICTURE, "task": "pick the block"}
    seen = TimedObservation(timestamp=1700000000.25, timestep=7, observation=raw, must_go=True)
    for protocol in (4, 5):
        (message,) = send_bytes_in_chunks(pickle.dumps(seen, protocol=protocol), services_pb2.Observation)
        keep(f"observation_{protocol}", message)
    chunk = torch.arange(12, dtype=torch.float32).reshape(4, 3) / 8
    for name, rows in (("float", chunk), ("half", chunk.half()), ("bfloat", chunk.bfloat16())):
        actions = [TimedAction(timestamp=1.0 + i, timestep=7 + i, action=row) for i, row in enumerate(rows)]
        keep(f"actions_{name}", services_pb2.Actions(data=pickle.dumps(actions)))


def keep(name: str, message) -> None:
    (HERE / f"{name}.bin").write_bytes(message.SerializeToString())


if __name__ == "__main__":
    main()
