"""Any JAX network held against any PyTorch network, layer by layer, gradient by gradient, step by step."""
