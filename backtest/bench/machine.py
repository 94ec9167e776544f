"""What the benchmark ran on, and what that machine can do at best."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backtest.bench.laps import Lap, laps


PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "numba", "QuantLib")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
GEMM, SMALL_GEMM = 2048, 512
COPY_BYTES, SMALL_COPY_BYTES = 1 << 28, 1 << 24


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, caches, memory, versions and load, as in ``bench.json``."""
    has_size = "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if has_size else 0
    return {
        "cpu": _cpu(),
        "cores": num_cores(),
        "caches": _caches(),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": {"platform": jax.default_backend(), "count": len(jax.local_devices())},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def ceilings(repeats: int, *, small: bool) -> dict[str, Lap]:
    """Rates of a float32 matrix product (operations) and of a copy (bytes read and written)."""
    size, length = (SMALL_GEMM, SMALL_COPY_BYTES) if small else (GEMM, COPY_BYTES)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    on_device = jnp.asarray(a), jnp.asarray(b)
    source = np.ones(length // 8)
    target = np.empty_like(source)
    flops = 2.0 * size**3
    return laps(
        {
            "sgemm numpy": lambda: a @ b,
            "sgemm jax": lambda: jnp.dot(*on_device).block_until_ready(),
            "copy": lambda: np.copyto(target, source),
        },
        repeats,
        {"sgemm numpy": flops, "sgemm jax": flops, "copy": 2.0 * length},
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> list[str]:
    found = []
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = (
            (folder / name).read_text(encoding="utf-8").strip()
            for name in ("level", "type", "size")
        )
        found.append(f"L{level} {kind} {size}")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
