"""The optimizer: an Optax chain equal to ``torch.optim.SGD``."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
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

    Krizhevsky et al. 2012 (section 5) have the learning rate e inside: ``v = 0.9 v - 0.0005 e w - e g``, then
    ``w += v``. With a constant e their velocity is -e times this one, and the parameters are the same. Where e changes,
    they differ for some ten steps: what is left of the old gradients counts at the old rate in theirs, at the new one
    here.

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


def adjustable_sgd(
    learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """`sgd` whose learning rate lies in its state, so that `with_learning_rate` changes it without a recompilation.

    As long as nobody does, it computes what `sgd` does, bit for bit.

    Args:
      learning_rate: to begin with.
      momentum, weight_decay: as in `sgd`.
    """
    factory = optax.inject_hyperparams(sgd, static_args=("momentum", "weight_decay"))
    return factory(learning_rate=np.asarray(learning_rate, np.float32), momentum=momentum, weight_decay=weight_decay)


def with_learning_rate(opt_state: Any, learning_rate: float) -> Any:
    """A state of `adjustable_sgd` with another learning rate, on the same device; all else is shared.

    >>> import jax.numpy as jnp
    >>> tx = adjustable_sgd(0.5); state = tx.init(jnp.zeros(1))
    >>> float(tx.update(jnp.ones(1), with_learning_rate(state, 0.25))[0][0])
    -0.25
    """
    old = opt_state.hyperparams["learning_rate"]
    new = jax.device_put(np.float32(learning_rate), old.sharding)
    return opt_state._replace(hyperparams={"learning_rate": new})
