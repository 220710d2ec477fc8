"""AlexNet in plain PyTorch: the independent reference that the JAX program is compared with.

Nothing here imports jax, flax, optax or jaxalex, nor shares a layer table with them: the networks are
written from the published tables, so that a wrong number cannot pass on both sides.
"""
