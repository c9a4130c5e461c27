"""A Dora node that writes down each chunk on its way to the actions executor: time, rows, reset, finite."""

from __future__ import annotations

import json
import os
import time

import dora
import numpy as np

with open(os.environ["SPIED"], "w", encoding="utf-8", buffering=1) as lines:
    node = dora.Node()
    for event in node:
        if event["type"] != "INPUT":
            continue
        if event["id"] == "command":
            if event["value"][0].as_py() == "quit":
                break
            continue
        rows = np.array(event["value"].to_pylist(), dtype=np.float64)
        seen = {
            "time_s": time.monotonic(),
            "shape": rows.shape,
            "reset": event["metadata"]["reset"],
            "interval": event["metadata"]["interval"],
            "cutoff_hz": event["metadata"].get("cutoff_hz"),
            "finite": bool(np.isfinite(rows).all()),
        }
        lines.write(json.dumps(seen) + "\n")
