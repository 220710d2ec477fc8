"""The JAX side: the product's own steps, built, compiled and timed in a process of their own. Never imports torch."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import inputs, protocol
from benchmarks.protocol import Program
from benchmarks.settings import Setting
from jaxalex.networks.tables import NETWORKS
from jaxalex.system.memory import keep_freed_memory

# At most so many bytes of images lie on the device for a dispatch of many steps.
_EPOCH_BYTES = 2**30
_EPOCH_STEPS = 50


class JaxWorker(protocol.Worker):
    """Holds one network's state, its batch and its compiled programs."""

    def operations(self) -> dict[str, Callable[..., Any]]:
        """The requests it answers."""
        return {
            **super().operations(),
            "hello": self.hello,
            "build": self.build,
            "cost": cost,
            "roofline": self.roofline,
        }

    def hello(self, device: str, precision: str) -> dict[str, Any]:
        """Starts JAX. Returns what it runs on."""
        from jaxalex.system import environment, settings

        settings.start_jax()
        from jaxalex.system.devices import choose_device
        from jaxalex.training import epochs, steps  # noqa: F401 (imports are not part of a program's memory)

        self.device = choose_device(device, precision)
        self.base_rss = protocol.rss()
        gpu = None if self.device.platform == "cpu" else self.device.device_kind
        return {"gpu": gpu, "threads": environment.cpu_count()}

    def build(
        self,
        setting: dict[str, Any],
        variant: str,
        seed: int,
        memory_limit: int | None = None,
        cache: str | None = None,
    ) -> dict[str, Any]:
        """Makes the state and the batch.

        Args:
          setting: the fields of a `Setting`.
          variant: which program the step is; the state is the same for all.
          seed: of parameters and batch.
          memory_limit: bytes of address space that may be taken on top of what imports took.
          cache: folder of the compilation cache; None compiles everything.

        Returns:
          ``inputs``, the fingerprint of parameters and batch, and ``parameters``, how many there are.
        """
        import jax

        from jaxalex import convert, models
        from jaxalex.system import compilation_cache
        from jaxalex.training import optim
        from jaxalex.training.state import create_train_state

        if memory_limit is not None:
            protocol.limit_memory(memory_limit)
        if cache is not None:
            compilation_cache.enable(pathlib.Path(cache))
        self.setting, self.seed = Setting(**setting), seed
        spec = self.setting
        model = models.build(spec.model, width=spec.width, precision=spec.precision)
        self.key = jax.device_put(jax.random.key(seed), self.device)
        half = np.full(3, inputs.MEAN, np.float32)
        size = NETWORKS[spec.model].image_size
        state = create_train_state(model, optim.sgd(0.01, 0.9), self.key, (size, size, 3), half, half)
        shapes = {name: array.shape for name, array in convert.to_torch(state.params, spec.model).items()}
        params = convert.from_torch(inputs.parameters(shapes, seed), spec.model)
        self.state = state.replace(params=jax.device_put(params, self.device))
        images, labels = inputs.batch(spec.model, spec.batch_size, seed)
        mask = np.ones(spec.batch_size, np.float32)
        self.batch = jax.device_put({"image": images, "label": labels, "mask": mask}, self.device)
        self.variant = variant
        arrays = convert.to_torch(self.state.params, spec.model)
        digest = inputs.digest(arrays, np.asarray(self.batch["image"]), np.asarray(self.batch["label"]))
        return {"inputs": digest, "parameters": sum(array.size for array in arrays.values())}

    def make(self, program: str) -> Program:
        """Builds ``"step"``, or of a training step ``"forward"`` or ``"gradient"`` (forward and backward)."""
        if program != "step":
            return self._part(program)
        return {"train_step": self._train_step, "train_epoch": self._train_epoch, "eval_step": self._eval_step}[
            self.variant
        ]()

    def _train_step(self) -> Program:
        from jaxalex.training import steps

        compiled, seconds = _compiled(steps.train_step, self.state, self.batch, self.key)
        return self._training(lambda: compiled(self.state, self.batch, self.key), seconds, 1)

    def _train_epoch(self) -> Program:
        """The epoch's own programs over as many batches as one dispatch takes."""

        from jaxalex.data import ImageSet
        from jaxalex.training import epochs, placement

        spec = self.setting
        image_bytes = spec.batch_size * 3 * NETWORKS[spec.model].image_size ** 2
        rows = 1 if self.device.platform == "cpu" else max(1, min(_EPOCH_STEPS, _EPOCH_BYTES // image_bytes))
        batches = [inputs.batch(spec.model, spec.batch_size, self.seed, number) for number in range(rows)]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        placed = placement.place(ImageSet(images, labels), placement.on_device(self.device))
        compiled = epochs.compile_epoch(self.state, placed, spec.batch_size, self.key)
        rows = compiled.steps_per_dispatch
        order = epochs.epoch_indices(len(labels), spec.batch_size, self.seed, 0)[:rows]
        data, indices, *_ = next(placed.dispatches(order, rows))
        run = compiled.programs[rows]
        return self._training(lambda: run(self.state, data, indices, self.key), compiled.compile_seconds, rows)

    def _training(self, call: Callable[[], Any], compile_seconds: float, steps_per_call: int) -> Program:
        import jax

        def step() -> None:
            self.state, self.metrics = call()

        return Program(
            step,
            lambda: jax.block_until_ready((self.state, self.metrics)),
            steps_per_call * self.setting.batch_size,
            compile_seconds,
            lambda: float(self.metrics["loss"] / self.metrics["count"]),
        )

    def _eval_step(self) -> Program:
        import jax

        from jaxalex.training import steps

        data = {name: self.batch[name] for name in ("image", "label")}
        indices = jax.device_put(np.arange(self.setting.batch_size, dtype=np.int32), self.device)
        compiled, seconds = _compiled(steps.eval_step, self.state, data, indices)

        def call() -> None:
            self.metrics, self.logits = compiled(self.state, data, indices)

        return Program(
            call,
            lambda: jax.block_until_ready((self.metrics, self.logits)),
            self.setting.batch_size,
            seconds,
            lambda: float(self.metrics["loss"] / self.metrics["count"]),
        )

    def _part(self, program: str) -> Program:
        import jax

        from jaxalex.training import steps

        def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> jax.Array:
            images = steps.network_input(state, batch["image"])
            rngs = {"dropout": jax.random.fold_in(key, state.step)}
            logits = state.apply_fn({"params": params}, images, train=True, rngs=rngs)
            metrics = steps.summed_metrics(logits, batch["label"], batch["mask"])
            return metrics["loss"] / metrics["count"]

        function = jax.jit(loss if program == "forward" else jax.value_and_grad(loss))
        compiled, seconds = _compiled(function, self.state.params, self.state, self.batch, self.key)

        def call() -> None:
            self.out = compiled(self.state.params, self.state, self.batch, self.key)

        return Program(call, lambda: jax.block_until_ready(self.out), self.setting.batch_size, seconds)

    def device_peak(self) -> int | None:
        """Peak bytes of the GPU's memory; None on the CPU."""
        if self.device.platform == "cpu":
            return None
        return int(self.device.memory_stats()["peak_bytes_in_use"])

    def roofline(self, kind: str, precision: str, size: int) -> dict[str, Any]:
        """Builds a matrix product of ``size`` or a copy of ``size`` float32 numbers, as the program "roofline"."""
        import jax
        import jax.numpy as jnp
        from jax import lax

        key = jax.device_put(jax.random.key(0), self.device)
        if kind == "copy":
            arrays: tuple[jax.Array, ...] = (jax.random.normal(key, (size,)),)
            function = jax.jit(lambda x: -x)
        else:
            dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
            how = lax.Precision.HIGHEST if precision == "float32" else lax.Precision.DEFAULT
            arrays = tuple(jax.random.normal(k, (size, size)).astype(dtype) for k in jax.random.split(key))
            function = jax.jit(lambda a, b: jnp.dot(a, b, precision=how))
        compiled, seconds = _compiled(function, *arrays)

        def call() -> None:
            self.out = compiled(*arrays)

        self.programs["roofline"] = Program(call, lambda: jax.block_until_ready(self.out), 0, seconds)
        return {"compile_seconds": seconds}


def _compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """A jitted function compiled for its arguments, and how many seconds that took."""
    import time

    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def cost(model: str, width: float) -> dict[str, int]:
    """``train`` and ``infer``: floating-point operations for one image; ``parameters``: how many."""
    from benchmarks.flops import model_flops
    from jaxalex import models
    from jaxalex.summary import summarize

    summary = summarize(models.build(model, width=width), model, NETWORKS[model].image_size)
    return {mode: model_flops(summary, mode) for mode in ("train", "infer")} | {"parameters": summary["parameters"]}


if __name__ == "__main__":
    keep_freed_memory()  # as training does; both sides, for both gain by it
    sys.exit(protocol.serve(JaxWorker().operations()))
