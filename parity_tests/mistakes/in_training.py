"""Mistakes in training alone: optimizers, clipping, schedules. No comparison of two networks' outputs shows one."""

from __future__ import annotations

import optax
import torch

from parity_tests.mistakes.optimizers import (
    DECAY,
    LIMIT,
    RATE,
    STEPS,
    adam_without_correction,
    torch_clipped,
    torch_scheduled,
)
from parity_tests.mistakes.planting import Mistake, Optimizer

_COSINE = optax.cosine_decay_schedule(RATE, STEPS)


def _jax(name: str, kind: str, network: str, wrong: optax.GradientTransformation, *says: str) -> Mistake:
    return Mistake(name, kind, network, "jax", "training", Optimizer("jax", wrong), says)


def _torch(name: str, kind: str, network: str, wrong: object, *says: str) -> Mistake:
    return Mistake(name, kind, network, "torch", "training", Optimizer("torch", wrong), says)


MISTAKES = (
    _jax("epsilon of Keras", "adam-epsilon", "mlp_adam", optax.adam(RATE, eps=1e-7), "epsilon", "1e-07", "1e-08"),
    _torch("epsilon 1e-6", "adam-epsilon", "mlp_adam", lambda p: torch.optim.Adam(p, lr=RATE, eps=1e-6),
           "epsilon", "1e-08", "1e-06"),
    _jax("epsilon in the root", "adam-epsilon", "mlp_adam",
         optax.adam(RATE, eps=0.0, eps_root=1e-8), "epsilon", "root"),
    _jax("no bias correction", "adam-bias-correction", "mlp_adam", adam_without_correction(), "bias correction"),
    _torch("a faster second moment", "adam-betas", "mlp_adam",
          lambda p: torch.optim.Adam(p, lr=RATE, betas=(0.9, 0.99)),
           "0.999", "0.99"),
    _jax("L2 for decoupled decay", "decoupled-decay", "mlp_adamw",
         optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE)), "L2|coupled"),
    _torch("L2 for decoupled decay", "decoupled-decay", "mlp_adamw",
           lambda p: torch.optim.Adam(p, lr=RATE, weight_decay=DECAY), "L2|decoupled|coupled"),
    _jax("optax's default decay", "weight-decay", "mlp_adamw", optax.adamw(RATE), "decay", "0.0001", "0.1"),
    _jax("nesterov", "momentum", "mlp_sgd", optax.sgd(RATE, momentum=0.9, nesterov=True), "nesterov"),
    _torch("dampening", "momentum", "mlp_sgd", lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, dampening=0.9),
           "dampening|average"),
    _jax("no momentum", "momentum", "mlp_sgd", optax.sgd(RATE), "momentum"),
    _jax("epsilon in the root", "rmsprop-epsilon", "mlp_rmsprop", optax.rmsprop(RATE, decay=0.99), "epsilon", "root"),
    _jax("optax's default decay", "rmsprop-decay", "mlp_rmsprop",
         optax.rmsprop(RATE, eps_in_sqrt=False), "0.9", "0.99"),
    _torch("centred", "rmsprop-centred", "mlp_rmsprop", lambda p: torch.optim.RMSprop(p, lr=RATE, centered=True),
           "cent"),
    _jax("optax's clipping", "clip-epsilon", "mlp_clipped",
         optax.chain(optax.clip_by_global_norm(LIMIT), optax.sgd(RATE)), "clip", "1e-6|1e-06"),
    _torch("clipped by value", "clip-kind", "mlp_clipped",
           torch_clipped(lambda p: torch.nn.utils.clip_grad_value_(p, LIMIT)), "clip", "value"),
    _jax("one step late", "schedule-shift", "mlp_cosine", optax.sgd(lambda step: _COSINE(step - 1)), "step", "late"),
    _torch("stepped before the optimizer", "schedule-shift", "mlp_cosine",
          torch_scheduled(early=True), "step", "late|early"),
    _torch("one step too long", "schedule-length", "mlp_cosine", torch_scheduled(STEPS + 1), "schedule|rate"),
)  # fmt: skip
