"""Which program computes: its text and its libraries."""

import functools
import hashlib
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import backtest


PACKAGES = ("jax", "jaxlib", "numpy", "pandas", "pyarrow", "dask", "scipy", "equinox")
"""Libraries whose versions a run records."""


@functools.cache
def source_hash() -> str:
    """SHA-256 of the program text of both packages, as it was when first asked."""
    digest = hashlib.sha256()
    root = Path(backtest.__file__).parent
    for package in (root, root.parent / "kernels"):
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(root.parent).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of the libraries that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def process() -> dict[str, Any]:
    """This process: where it runs, its devices and its peak memory."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": jax.default_backend(),
        "devices": len(jax.local_devices()),
        "peak_memory_mb": peak_memory_mb(),
    }


def peak_memory_mb() -> int:
    """Most memory that this process ever held, MiB."""
    # What the system counts as used also holds what the parent had when it started this process.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1 << 20))
