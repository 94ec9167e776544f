import os

from hypothesis import HealthCheck, settings


# What XLA has to say about tuning its cached programs would flood every report; set, like the
# kept programs, before JAX starts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Eight virtual devices for the sharding tests; set before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "project",
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")
