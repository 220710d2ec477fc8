"""Parameters to and from PyTorch's ``state_dict`` arrays, as other programs use them."""

from jaxalex.weights.convert import Params, from_torch, to_torch, torch_names

__all__ = ["Params", "from_torch", "to_torch", "torch_names"]
