"""AlexNet in functional JAX: Flax Linen networks and a jit-compiled Optax train step.

The package, from the bottom up; a part imports only from those above it in this list:

- ``errors``: how a command can fail; ``system``: files, locks, signals, memory, devices, the compilation cache
- ``networks``: the layers and the networks made of them
- ``config``, ``cli``: a run's configuration, and what all commands share
- ``data``: every data set as the same arrays; ``weights``: parameters to and from PyTorch's names and layouts
- ``training``: state, step, epoch, checkpoints, and the whole run in ``training.loop``
- ``train``, ``evaluate``, ``predict``, ``summary``: the commands, each ``python -m jaxalex.NAME``

``jaxalex.models`` and ``jaxalex.convert`` are the short names for what other programs use. Importing the package
itself imports nothing.
"""

__version__ = "0.1.0"
