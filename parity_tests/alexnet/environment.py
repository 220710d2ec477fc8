"""What the AlexNets' report says of the run: the engine's own, and what this project adds."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from jaxalex.system import environment as ours
from netparity.report import environment as engine


def environment(arguments: Mapping[str, Any], seconds: float, torch_device: str) -> dict[str, Any]:
    """Versions, devices, precision modes, the command's arguments, and how long it took in seconds."""
    found = engine.environment(torch_device)
    versions = {**found["versions"], **ours.versions(), "torchvision": importlib.metadata.version("torchvision")}
    return {**found, "versions": versions, "arguments": dict(arguments), "seconds": round(seconds, 1)}
