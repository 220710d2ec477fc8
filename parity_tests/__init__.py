"""Proof that the JAX networks and the PyTorch reference are the same program; ``python -m parity_tests`` runs it."""
