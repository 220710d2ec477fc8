"""Parameters to and from PyTorch's ``state_dict`` arrays, as other programs use them."""

from jaxalex.weights.convert import Params, compare_shapes, from_torch, to_torch, torch_shapes

__all__ = ["Params", "compare_shapes", "from_torch", "to_torch", "torch_shapes"]
