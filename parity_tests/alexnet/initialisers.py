"""Level 7: every initialisation scheme against PyTorch's own: moments, and a Kolmogorov-Smirnov test."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import numpy as np
import torch
from scipy import stats

from netparity.results import Check
from parity_tests.alexnet.programs import JaxProgram, TorchProgram

# The probability that one test refuses a right initialiser; a run makes about a hundred of these tests.
SIGNIFICANCE = 1e-8
# A convolution and a dense layer, of different fan-in and, in the 2012 paper's scheme, different biases.
SHAPES = {"conv2": (5, 5, 8, 512), "fc3": (256, 512)}


def initialisers(jax_program: JaxProgram, torch_program: TorchProgram, seed: int = 0) -> Iterator[Check]:
    """Kernel and bias of every scheme: mean, standard deviation, extent and distribution."""
    for scheme in jax_program.schemes:
        for layer, shape in SHAPES.items():
            kernels, biases = _ours(jax_program, scheme, layer, shape, seed)
            weights, starts = _theirs(torch_program, scheme, layer, shape, seed)
            for part, a, b in (("kernel", kernels, weights), ("bias", biases, starts)):
                yield from _compare(f"{scheme}: {layer}.{part}", scheme, a, b)


def _compare(name: str, scheme: str, a: np.ndarray, b: np.ndarray) -> Iterator[Check]:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        same = np.array_equal(a[:1], b[:1]) and np.ptp(a) == np.ptp(b)
        note = f"JAX {a[0]:g}, PyTorch {b[0]:g}"
        yield Check("initialisers", scheme, f"{name}, constant", bool(same), None, None, None, True, note)
        return
    sigma = float(b.std())
    # Means and standard deviations of n values scatter by sigma / sqrt(n) and less: the two-sided normal quantile.
    limit = float(stats.norm.isf(SIGNIFICANCE / 2)) * math.sqrt(1 / a.size + 1 / b.size)
    moments = {"mean": abs(a.mean() - b.mean()) / sigma, "standard deviation": abs(a.std() - sigma) / sigma}
    for moment, found in moments.items():
        found = float(found)
        yield Check("initialisers", scheme, f"{name}, {moment}", found <= limit, None, found, limit)
    statistic = float(stats.ks_2samp(a, b, method="asymp").statistic)
    limit = math.sqrt(-math.log(SIGNIFICANCE / 2) / 2 * (a.size + b.size) / (a.size * b.size))
    yield Check("initialisers", scheme, f"{name}, Kolmogorov-Smirnov", statistic <= limit, None, statistic, limit)


def _ours(
    program: JaxProgram, scheme: str, layer: str, shape: tuple[int, ...], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    init = program.schemes[scheme](layer, math.prod(shape[:-1]))

    for_kernel, for_bias = jax.random.split(jax.random.key(seed))
    kernel, bias = init.kernel(for_kernel, shape, np.float32), init.bias(for_bias, shape[-1:], np.float32)
    return np.asarray(kernel, np.float64).ravel(), np.asarray(bias, np.float64).ravel()


def _theirs(
    program: TorchProgram, scheme: str, layer: str, shape: tuple[int, ...], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = torch.empty(*shape[:-3:-1], *shape[:-2]), torch.empty(shape[-1])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        program.schemes[scheme](layer, weight, bias)
    return weight.double().numpy().ravel(), bias.double().numpy().ravel()
