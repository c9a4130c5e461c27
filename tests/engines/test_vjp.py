"""Backward passes written out as programs: the one operator that torch leaves to us, and what is refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from chunkwise.engines import _vjp  # noqa: E402  (torch may be missing)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"stride": 3},
        {"dilation": 2, "padding": 2},
        {"groups": 2, "stride": 2},
    ],
    ids=str,
)
def test_the_gradient_of_a_convolution_is_torchs(axes, transposed, settings):
    kind = getattr(torch.nn, f"Conv{'Transpose' * transposed}{axes}d")
    torch.manual_seed(0)
    layer = kind(4, 6, 3, bias=False, **settings).double().requires_grad_(False)
    for size in (9, 10, 11):
        x = torch.randn(2, 4, *[size] * axes, dtype=torch.float64, requires_grad=True)
        made = layer(x)
        gradient = torch.randn_like(made)
        (theirs,) = torch.autograd.grad(made, x, gradient)
        ours, *rest = _vjp._convolution_backward(
            gradient,
            x,
            layer.weight,
            None,
            list(layer.stride),
            list(layer.padding),
            list(layer.dilation),
            transposed,
            list(layer.output_padding),
            layer.groups,
            [True, False, False],
        )
        assert rest == [None, None]
        np.testing.assert_allclose(ours.detach().numpy(), theirs.numpy(), atol=1e-12)


def test_a_network_that_is_not_frozen_is_refused():
    layer = torch.nn.Conv1d(2, 2, 3, padding=1)

    def gradient(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(layer(x).sum(), [x, layer.weight])

    with pytest.raises(ValueError, match="freeze the network"):
        _vjp.flat_program(gradient, [np.ones((1, 2, 5), np.float32)])


def test_a_program_has_its_backward_pass_in_it():
    def gradient(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(torch.tanh(x * 2.0).sum(), x)[0]

    program = _vjp.flat_program(gradient, [np.ones((1, 3), np.float32)]).module()
    x = torch.tensor([[0.1, -0.2, 0.3]])
    with torch.inference_mode():
        made = program(x)
    np.testing.assert_allclose(made.numpy(), 2.0 * (1.0 - np.tanh(2.0 * x.numpy()) ** 2), atol=1e-6)
