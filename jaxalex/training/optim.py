"""The optimizer: an Optax chain equal to ``torch.optim.SGD``."""

from __future__ import annotations

import optax


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Stochastic gradient descent as ``torch.optim.SGD`` computes it (dampening 0).

    With gradient g, parameter p and velocity v, a step is ``g += weight_decay * p``, ``v = momentum * v + g``,
    then ``p -= learning_rate * v`` (Nesterov: ``p -= learning_rate * (g + momentum * v)``). The decay goes into the
    velocity and the learning rate stays outside it: any other order would be another optimizer.

    Args:
      learning_rate: constant, or a schedule of the number of steps already taken.
      momentum: in [0, 1); 0 keeps no velocity.
      weight_decay: coupled (L2), at least 0.
      nesterov: Nesterov's form of the momentum; needs ``momentum > 0``, as in PyTorch.

    Raises:
      ValueError: ``nesterov`` without momentum.

    >>> import jax.numpy as jnp
    >>> tx = sgd(0.5, momentum=0.5)
    >>> params = jnp.array([1.0]); state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params.tolist()  # 1 - 0.5 * 1 - 0.5 * (0.5 * 1 + 1)
    [-0.25]
    """
    if nesterov and not momentum:
        raise ValueError("nesterov needs a momentum above 0")
    chain = optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)
    if weight_decay:
        chain = optax.chain(optax.add_decayed_weights(weight_decay), chain)
    return chain
