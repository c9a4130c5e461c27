"""Two velocity fields of torch with random weights, for `guidance.py`: what a network costs does not depend on them."""

from __future__ import annotations

from typing import Any

import torch

ROWS, DIM, WIDTH = 50, 32, 256
STATE = "observation.state"


class Small(torch.nn.Module):
    """A residual MLP over a whole chunk (B, 16, 4), about as large as the demo policy's; 0.1 million parameters."""

    rows, dim, row_times = 16, 4, True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = self.rows * self.dim
        self.first = torch.nn.Linear(size + self.rows + 8, 128)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(128), torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128)
            )
            for _ in range(2)
        )
        self.last = torch.nn.Linear(128, size)

    def forward(self, x: Any, t: Any, known: Any) -> Any:
        h = self.first(torch.cat([x.flatten(1), t, known[STATE]], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h).view(x.shape)


class Expert(torch.nn.Module):
    """An action expert (B, 50, 32): six layers of attention over the rows and 64 tokens; 6 million parameters.

    The tokens are made once for each observation, as the keys and values of a vision-language model are.
    """

    rows, dim, row_times = ROWS, DIM, True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = torch.nn.Linear(8, 64 * WIDTH)
        self.row, self.time = torch.nn.Linear(DIM, WIDTH), torch.nn.Linear(1, WIDTH)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerDecoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(6)
        )
        self.last = torch.nn.Linear(WIDTH, DIM)

    def encode(self, observation: Any) -> Any:
        return torch.tanh(self.tokens(observation[STATE])).view(-1, 64, WIDTH)

    def forward(self, x: Any, t: Any, known: Any) -> Any:
        h = self.row(x) + self.time(t[..., None])
        for layer in self.layers:
            h = layer(h, known)
        return self.last(h)
