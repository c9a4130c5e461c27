"""A policy for IGRIS-B without a network: reaches for a pose, and keeps to a running plan."""

from __future__ import annotations

import numpy as np

from chunkwise.policies.igris import COMPONENT_REGISTRY, POLICY_REGISTRY, exponential_blend

ROWS = 50


@COMPONENT_REGISTRY.register("reach")  # components/reach.yaml holds its arguments
class Reach:
    def __init__(self, pose, speed):
        self.pose, self.speed = np.concatenate(pose).astype(np.float32), speed

    def __call__(self, proprio):
        covered = 1 - np.exp(-self.speed * np.arange(ROWS, dtype=np.float32) / ROWS)
        return proprio + covered[:, None] * (self.pose - proprio)


@POLICY_REGISTRY.register("reach_policy")
class ReachPolicy:
    def __init__(self, components, **kwargs):
        self.reach = components["main"]

    def predict(self, input_data, data_normalization_interface):
        return self.reach(input_data["proprio"][0])  # newest first

    def guided_inference(
        self, input_data, data_normalization_interface, min_num_actions_executed, action_chunk_size
    ):
        made = self.predict(input_data, data_normalization_interface)
        return exponential_blend(
            input_data["prev_action"], made, delay=input_data["est_delay"], executed=min_num_actions_executed
        )

    def warmup(self):
        self.reach(np.zeros(24, dtype=np.float32))

    def freeze_all_model_params(self): ...
