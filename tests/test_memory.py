"""What the process keeps of the memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import re
import numpy as np
from jaxalex.system.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) // 1000

keep_freed_memory()
before = resident()
np.ones(50_000_000)  # 400 MB, freed at once
kept = resident()
return_freed_memory()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    kept, left = map(int, subprocess.check_output([sys.executable, "-c", _PROGRAM], text=True).split())
    assert kept >= 380
    assert left <= 20
