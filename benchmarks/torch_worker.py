"""The PyTorch side: a plain step at its fastest, built and timed in a process of its own. Never imports jax."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import inputs, protocol
from benchmarks.protocol import Program
from benchmarks.settings import TORCH_VARIANTS, Setting
from jaxalex.system.memory import keep_freed_memory


class TorchWorker(protocol.Worker):
    """Holds one network, its optimizer, its batch and how a step is run."""

    def operations(self) -> dict[str, Callable[..., Any]]:
        """The requests it answers."""
        return {**super().operations(), "hello": self.hello, "build": self.build, "roofline": self.roofline}

    def hello(self, device: str, precision: str) -> dict[str, Any]:
        """Starts PyTorch in a precision. Returns what it runs on."""
        import torch

        import torch_ref.models  # noqa: F401 (imports are not part of a program's memory)

        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        self.precision = precision
        if device == "gpu":
            torch.zeros(1, device=self.device)  # the context is not part of a program's memory either
        self.base_rss = protocol.rss()
        gpu = torch.cuda.get_device_name(self.device) if device == "gpu" else None
        return {"gpu": gpu, "threads": torch.get_num_threads()}

    def build(
        self,
        setting: dict[str, Any],
        variant: str,
        seed: int,
        memory_limit: int | None = None,
        cache: str | None = None,
    ) -> dict[str, Any]:
        """Makes network, optimizer and batch; arguments and result as `JaxWorker.build` has them.

        The cache is PyTorch's own, in the folder that the environment names, and always on.
        """
        import torch

        from torch_ref import models

        if variant not in TORCH_VARIANTS:
            raise ValueError(f"unknown variant {variant!r}")
        if memory_limit is not None:
            protocol.limit_memory(memory_limit)
        self.setting, self.variant = Setting(**setting), variant
        spec = self.setting
        self.model: torch.nn.Module = models.build(spec.model, width=spec.width)
        arrays = inputs.parameters({name: tuple(p.shape) for name, p in self.model.state_dict().items()}, seed)
        self.model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        layout = torch.contiguous_format if variant == "eager" else torch.channels_last
        self.model = self.model.to(self.device).to(memory_format=layout)
        self.model.train(spec.mode == "train")
        images, labels = inputs.batch(spec.model, spec.batch_size, seed)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout).to(self.device)
        self.labels = torch.from_numpy(labels).long().to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, fused=True)
        held = {name: p.detach().cpu().numpy() for name, p in self.model.state_dict().items()}
        digest = inputs.digest(held, self.images.permute(0, 2, 3, 1).cpu().numpy(), self.labels.cpu().numpy())
        return {"inputs": digest, "parameters": sum(p.numel() for p in self.model.parameters())}

    def make(self, program: str) -> Program:
        """Builds ``"step"``, or of a training step ``"forward"`` or ``"gradient"`` (forward and backward)."""
        if self.setting.mode == "infer":
            return self._inference()
        loss_of = self._maybe_compiled(self._loss)

        def call() -> None:
            self.optimizer.zero_grad()
            self.last = loss_of(self.images, self.labels)
            if program != "forward":
                self.last.backward()
            if program == "step":
                self.optimizer.step()

        return self._program(call)

    def _program(self, call: Callable[[], None]) -> Program:
        import torch

        def wait() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        eager = not self.variant.startswith("compile")
        return Program(call, wait, self.setting.batch_size, 0.0 if eager else -1.0, lambda: self.last.item())

    def _inference(self) -> Program:
        import torch

        evaluate = self._maybe_compiled(self._evaluate)

        def call() -> None:
            with torch.no_grad():
                self.last, self.correct, self.logits = evaluate(self.images, self.labels)

        return self._program(call)

    def _maybe_compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        if not self.variant.startswith("compile"):
            return function
        mode = "max-autotune" if self.variant.endswith("max-autotune") else "default"
        return torch.compile(function, mode=mode)

    def _logits(self, images: Any) -> Any:
        import torch

        x = (images.float() / 255 - inputs.MEAN) / inputs.STD
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext():
            return self.model(x)

    def _loss(self, images: Any, labels: Any) -> Any:
        import torch

        return torch.nn.functional.cross_entropy(self._logits(images).float(), labels)

    def _evaluate(self, images: Any, labels: Any) -> Any:
        """What the JAX side's evaluation gives, too: loss, number of right predictions, logits."""
        import torch

        logits = self._logits(images).float()
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return loss, (logits.argmax(dim=1) == labels).sum(), logits

    def device_peak(self) -> int | None:
        """Peak bytes of the GPU's memory; None on the CPU."""
        import torch

        return None if self.device.type == "cpu" else int(torch.cuda.max_memory_allocated(self.device))

    def roofline(self, kind: str, precision: str, size: int) -> dict[str, Any]:
        """Builds a matrix product of ``size`` or a copy of ``size`` float32 numbers, as the program "roofline"."""
        import torch

        if kind == "copy":
            source = torch.randn(size, device=self.device)
            target = torch.empty_like(source)

            def call() -> None:
                torch.neg(source, out=target)
        else:
            dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            a, b = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(a)

            def call() -> None:
                torch.mm(a, b, out=out)

        def wait() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        self.programs["roofline"] = Program(call, wait, 0)
        return {"compile_seconds": 0.0}


if __name__ == "__main__":
    keep_freed_memory()  # as training does; both sides, for both gain by it
    sys.exit(protocol.serve(TorchWorker().operations()))
