"""A velocity field of torch, of a few kilobytes: attention over the rows, a convolution, and an encoder."""

import torch


class Velocity(torch.nn.Module):
    """For chunks (B, 8, 3) and an observation.state (B, 3); one flow time for all rows."""

    row_times = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.sees = torch.nn.Linear(3, 16)
        self.row, self.time, self.out = torch.nn.Linear(3, 16), torch.nn.Linear(1, 16), torch.nn.Linear(16, 3)
        self.mixed = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True)
        self.along = torch.nn.Conv1d(16, 16, 3, padding=1, stride=2)
        self.back = torch.nn.ConvTranspose1d(16, 16, 4, padding=1, stride=2)

    def encode(self, observation):
        return {"seen": torch.tanh(self.sees(observation["observation.state"]))}

    def forward(self, x, t, known):
        h = self.row(x) + self.time(t[..., None]) + known["seen"][:, None]
        h = self.mixed(h)
        h = h + self.back(torch.nn.functional.silu(self.along(h.transpose(1, 2)))).transpose(1, 2)
        return self.out(h)


class RowVelocity(Velocity):
    """The same with a flow time for each row."""

    row_times = True


def plain(x, t, observation):
    """No encoder and no module."""
    state = observation["observation.state"]
    return torch.tanh(state[:, None] - x) * (1.0 + t[..., None])
