"""AlexNet in functional JAX: Flax Linen networks and a jit-compiled Optax train step.

Importing the package imports nothing heavy; ``import jaxalex.models`` and its siblings do the work.
"""

__version__ = "0.1.0"
