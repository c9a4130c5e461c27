"""The flow-matching network of the demo policy, forwards and backwards, in numpy.

One small residual network moves the chunk of one hand; the two hands share it, for neither lane needs to know
of the other.  The same functions run on arrays, to train, and on symbols, to be written down as ONNX operators
(see `onnx_trace`): what ships is what was trained.

    h = x Wx + f Wf + cos(pi tau 1..8) Wt + b          x chunk (..., K), f features (..., 4), tau flow time
    h = h + silu(norm(h) W1 + b1) W2 + b2              DEPTH times; norm is a layer norm without gain or bias
    v = norm(h) Wo + bo

Source:
    Y. Lipman et al. 2023, "Flow Matching for Generative Modeling", https://arxiv.org/abs/2210.02747.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 128
DEPTH = 2
FEATURES = 4
FREQUENCIES = 8

Array = NDArray[Any]
Weights = dict[str, Array]
Tape = list[tuple[Array, ...]]


def initial_weights(knots: int, rng: np.random.Generator, width: int = WIDTH, depth: int = DEPTH) -> Weights:
    """Weights for chunks of `knots` numbers.  The velocity is 0 at first and the blocks are nearly idle."""

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Array:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(gain / np.sqrt(rows))

    def zeros(*shape: int) -> Array:
        return np.zeros(shape, dtype=np.float32)

    fan_in = knots + FEATURES + FREQUENCIES
    stem = matrix(fan_in, width)
    chunk, features, time = np.split(stem, [knots, knots + FEATURES])
    weights = {"chunk": chunk, "features": features, "time": time, "bias": zeros(width)}
    for block in range(depth):
        weights |= {f"in{block}": matrix(width, width), f"in_bias{block}": zeros(width)}
        weights |= {f"out{block}": matrix(width, width, gain=0.3), f"out_bias{block}": zeros(width)}
    return weights | {"velocity": zeros(width, knots), "velocity_bias": zeros(knots)}


def depth_of(weights: Weights) -> int:
    """How many residual blocks."""
    return sum(name.startswith("in_bias") for name in weights)


def embed(tau: Array) -> Array:
    """Flow times (..., 1) in [0, 1] to cosines (..., FREQUENCIES)."""
    waves: Array = np.cos(tau * np.arange(1, FREQUENCIES + 1, dtype=np.float32) * np.float32(np.pi))
    return waves


def forward(weights: Weights, x: Array, tau: Array, features: Array) -> tuple[Array, Tape]:
    """Velocities of the chunks, and what the way back needs.

    Args:
        weights: as from `initial_weights`.
        x: noisy chunks (..., K), normalised.
        tau: flow times (..., 1).
        features: (..., FEATURES), as from `two_belts.features`.

    Returns:
        Velocities (..., K), and the tape.
    """
    waves = embed(tau)
    h = x @ weights["chunk"] + features @ weights["features"] + (waves @ weights["time"] + weights["bias"])
    tape: Tape = [(x, features, waves)]
    for block in range(depth_of(weights)):
        normal, scale = _norm(h)
        a = normal @ weights[f"in{block}"] + weights[f"in_bias{block}"]
        gate = 0.5 + 0.5 * np.tanh(0.5 * a)  # the logistic function, in a form that cannot overflow
        tape.append((normal, scale, a, gate))
        h = h + (a * gate) @ weights[f"out{block}"] + weights[f"out_bias{block}"]
    normal, scale = _norm(h)
    tape.append((normal, scale))
    return normal @ weights["velocity"] + weights["velocity_bias"], tape


def backward(weights: Weights, tape: Tape, cotangent: Array, gradients: Weights | None = None) -> Array:
    """``cotangent^T dv/dx`` (..., K), for a cotangent (..., K) of the velocity.

    Args:
        weights, tape: of the forward pass.
        cotangent: what multiplies the Jacobian from the left.
        gradients: filled with ``cotangent^T dv/dweights``, summed over a batch (N, K), where given.
    """
    normal, scale = tape[-1]
    if gradients is not None:
        gradients["velocity"], gradients["velocity_bias"] = normal.T @ cotangent, cotangent.sum(axis=0)
    g = _norm_back(cotangent @ weights["velocity"].T, normal, scale)
    for block in reversed(range(depth_of(weights))):
        normal, scale, a, gate = tape[1 + block]
        g_a = (g @ weights[f"out{block}"].T) * (gate * (1.0 + a * (1.0 - gate)))
        if gradients is not None:
            gradients[f"out{block}"], gradients[f"out_bias{block}"] = (a * gate).T @ g, g.sum(axis=0)
            gradients[f"in{block}"], gradients[f"in_bias{block}"] = normal.T @ g_a, g_a.sum(axis=0)
        g = g + _norm_back(g_a @ weights[f"in{block}"].T, normal, scale)
    if gradients is not None:
        for name, entry in zip(("chunk", "features", "time"), tape[0], strict=True):
            gradients[name] = entry.T @ g
        gradients["bias"] = g.sum(axis=0)
    return g @ weights["chunk"].T


def _norm(h: Array) -> tuple[Array, Array]:
    """Rows of mean 0 and variance 1, and the factor that made them so."""
    centred = h - h.mean(axis=-1, keepdims=True)
    scale = 1.0 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    return centred * scale, scale


def _norm_back(g: Array, normal: Array, scale: Array) -> Array:
    along = normal * (g * normal).mean(axis=-1, keepdims=True)
    back: Array = scale * (g - g.mean(axis=-1, keepdims=True) - along)
    return back
