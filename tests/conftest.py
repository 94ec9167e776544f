import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


# What XLA has to say about tuning its cached programs would flood every report; set, like the
# kept programs, before JAX starts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiled programs are shared by the processes of the tests.
os.environ.setdefault("PMSTRESS_CACHE", str(Path(__file__).parents[1] / "build" / "cache"))
# Eight virtual devices for the sharding tests; set before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax


# A shell lets what it starts in the background ignore interrupts; some tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MOST_MAPPINGS = 15_000
"""Every compiled program maps pieces of memory, of which Linux grants a process 65,530."""


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs are kept on disk, and dropped between files before they are too many."""
    # The types of the package are checked at run time only if this file does not import it.
    from backtest.engine import use_compilation_cache
    from backtest.kept_programs import forget_programs

    use_compilation_cache()
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPPINGS:
        forget_programs()
        jax.clear_caches()
        gc.collect()


settings.register_profile(
    "project",
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")
