"""A policy of the IGRIS inference engine, without a network: reaches for a pose, and keeps to a running plan."""

from __future__ import annotations

import numpy as np

from chunkwise.policies.igris import COMPONENT_REGISTRY, POLICY_REGISTRY, exponential_blend

ROWS = 50


@COMPONENT_REGISTRY.register("your_model")  # components/your_model.yaml holds its arguments
class YourModel:
    def __init__(self, pose, speed):
        self.pose, self.speed = np.asarray(pose, dtype=np.float32), speed

    def __call__(self, proprio):
        reach = 1 - np.exp(-self.speed * np.arange(ROWS, dtype=np.float32) / ROWS)
        return proprio + reach[:, None] * (self.pose - proprio)


@POLICY_REGISTRY.register("your_policy")
class YourPolicy:
    def __init__(self, components, **kwargs):
        self.model = components["main"]

    def predict(self, input_data, data_normalization_interface):
        return self.model(input_data["proprio"][0])  # newest first

    def guided_inference(
        self, input_data, data_normalization_interface, min_num_actions_executed, action_chunk_size
    ):
        made = self.predict(input_data, data_normalization_interface)
        return exponential_blend(
            input_data["prev_action"], made, delay=input_data["est_delay"], executed=min_num_actions_executed
        )

    def warmup(self):
        self.model(np.zeros_like(self.model.pose))

    def freeze_all_model_params(self): ...
