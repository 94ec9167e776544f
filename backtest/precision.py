"""Importing this module switches JAX to 64-bit numbers: cents do not fit into 32 bits."""

import jax


jax.config.update("jax_enable_x64", True)
