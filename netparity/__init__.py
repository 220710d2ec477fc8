"""Any JAX network held against any PyTorch network, layer by layer, gradient by gradient, step by step.

See ``docs/port-your-own.md``. Everything named here is imported when it is first used, so that ``import netparity``
loads neither framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netparity.adapters.equinox import equinox as equinox
    from netparity.adapters.function import function as function
    from netparity.adapters.given import JaxNetwork as JaxNetwork
    from netparity.adapters.linen import linen as linen
    from netparity.adapters.nnx import nnx as nnx
    from netparity.comparison import Comparison as Comparison
    from netparity.comparison import assert_parity as assert_parity
    from netparity.comparison import compare as compare
    from netparity.comparison import finish as finish
    from netparity.layouts import AsIs as AsIs
    from netparity.layouts import ChannelsFirst as ChannelsFirst
    from netparity.layouts import Flattened as Flattened
    from netparity.layouts import Regrouped as Regrouped
    from netparity.matching import as_python as as_python
    from netparity.measure import ParityError as ParityError
    from netparity.prepare import infer_table as infer_table
    from netparity.report.environment import full_float32 as full_float32
    from netparity.results import Result as Result
    from netparity.table import Concatenated as Concatenated
    from netparity.table import ConvKernel as ConvKernel
    from netparity.table import ConvTransposeKernel as ConvTransposeKernel
    from netparity.table import DenseKernel as DenseKernel
    from netparity.table import Entry as Entry
    from netparity.table import Part as Part
    from netparity.table import Reshaped as Reshaped
    from netparity.table import Same as Same
    from netparity.table import Stack as Stack
    from netparity.table import Sum as Sum
    from netparity.table import Transposed as Transposed
    from netparity.weights.compare import WeightPair as WeightPair
    from netparity.weights.compare import WeightsComparison as WeightsComparison
    from netparity.weights.compare import compare_weights as compare_weights

_HOMES = {
    "AsIs": "netparity.layouts",
    "ChannelsFirst": "netparity.layouts",
    "Comparison": "netparity.comparison",
    "Concatenated": "netparity.table",
    "ConvKernel": "netparity.table",
    "ConvTransposeKernel": "netparity.table",
    "DenseKernel": "netparity.table",
    "Entry": "netparity.table",
    "Flattened": "netparity.layouts",
    "JaxNetwork": "netparity.adapters.given",
    "ParityError": "netparity.measure",
    "Part": "netparity.table",
    "Regrouped": "netparity.layouts",
    "Reshaped": "netparity.table",
    "Result": "netparity.results",
    "Same": "netparity.table",
    "Stack": "netparity.table",
    "Sum": "netparity.table",
    "Transposed": "netparity.table",
    "WeightPair": "netparity.weights.compare",
    "WeightsComparison": "netparity.weights.compare",
    "as_python": "netparity.matching",
    "assert_parity": "netparity.comparison",
    "compare": "netparity.comparison",
    "compare_weights": "netparity.weights.compare",
    "equinox": "netparity.adapters.equinox",
    "finish": "netparity.comparison",
    "full_float32": "netparity.report.environment",
    "function": "netparity.adapters.function",
    "infer_table": "netparity.prepare",
    "linen": "netparity.adapters.linen",
    "nnx": "netparity.adapters.nnx",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
