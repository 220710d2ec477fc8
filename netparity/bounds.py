"""What rounding in float32 explains: ``C * sqrt(n) * u`` for a sum of n products.

Source: N. J. Higham and T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput.
41(5), 2019: the rounding error of an inner product of length n grows like sqrt(n) * u with high probability, where
the worst case (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1) is n * u.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

U = 2.0**-24  # unit roundoff of float32
C = 4.0  # one constant for every layer
RMS_RATIO = 4.0  # JAX's root-mean-square error against PyTorch's
# A sum that errs as float32's rounding, uniform in the last place, makes a plain one err is no worse than it must be.
PLAIN_SUM_LUCK = 1.5
# The ratio is judged over at least so many numbers: over 16, two equally exact programs exceed it less than once in a
# million times (F distribution with 16 and 16 degrees of freedom), over 8 once in 2,700.
RMS_MIN_SIZE = 16
FLOAT64_LIMIT = 1e-12
CANCELLED = 1e-6  # a gradient that is smaller than its stage's output's by so much has cancelled
EXPLAINED_LIMIT = 1e-9  # an explanation fits when nothing is left of the difference but rounding
AMPLIFIED_LIMIT = 1e-7  # beyond that, amplified rounding excuses nothing
# What a stage that is called a convolution, a dense layer or a choice does not consist of.
FUNCTIONS = frozenset(
    [
        *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "erfc", "rsqrt", "sqrt", "cbrt", "pow"),
        *("sin", "cos", "tan", "integer_pow", "reduce_sum", "cumsum", "scan", "while", "reduce_window_sum"),
    ]
)
TRAJECTORY_LIMIT = 1e-10
CHAOS_LIMIT = 10.0


def bound(n: int) -> float:
    """The largest error, relative to the layer's scale, that a contraction of length n explains in float32."""
    return C * math.sqrt(n) * U


def plain_sum_rms(n: int) -> float:
    """The root-mean-square error, relative to that of the sums, of n products added up one after the other in float32.

    The k-th partial sum is √k times as large as a product and is rounded by 0.42 u of itself (root mean square, over
    numbers whose logarithm is uniform), which makes ``0.42 u sqrt(n / 2)`` in all. A library that adds up in several
    lanes, as most do, errs several times less, and one that does not is not wrong.
    """
    return 0.30 * math.sqrt(n) * U


def contraction_length(
    quantity: str,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    kernel_shape: Sequence[int] | None,
    max_pool: tuple[int, int] | None = None,
) -> int:
    """How many products are summed into one number of a layer's output or vector-Jacobian product.

    Args:
      quantity: ``"output"``, ``"vjp_input"``, or ``"vjp_"`` and the name of a parameter.
      in_shape, out_shape: the layer's input and output, ``[batch, …, channel]``.
      kernel_shape: ``[k, k, in, out]`` or ``[in, out]``; None for a layer without one, where a number is taken to
        sum its share of the others (``in size / out size``: 1 for a ReLU, a window for an average).
      max_pool: window and stride of a max-pooling, whose output sums nothing, and whose gradient sums as many
        numbers as windows overlap.

    >>> contraction_length("output", (2, 8, 8, 16), (2, 8, 8, 32), (3, 3, 16, 32))
    144
    >>> contraction_length("vjp_kernel", (2, 8, 8, 16), (2, 8, 8, 32), (3, 3, 16, 32))
    128
    """
    if max_pool is not None:
        window, stride = max_pool
        return math.ceil(window / stride) ** 2 if quantity == "vjp_input" else 1
    if kernel_shape is None:
        return max(1, round(math.prod(in_shape) / math.prod(out_shape)))
    if quantity == "output":
        return math.prod(kernel_shape[:-1])
    if quantity == "vjp_input":
        strides = [max(1, round(i / o)) for i, o in zip(in_shape[1:-1], out_shape[1:-1], strict=False)]
        taps = [math.ceil(k / s) for k, s in zip(kernel_shape[:-2], strides, strict=False)]
        return math.prod(taps) * kernel_shape[-1]
    return math.prod(out_shape[:-1])
