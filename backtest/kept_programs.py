"""Compiled programs that are kept on disk whole.

JAX's own cache keeps what its compiler made, but every process traces a program again before it can
look for it, for seconds a shape class. A program that is kept here is found by what it is called
with, and is ready as soon as its file is read.
"""

import hashlib
import os
import pickle
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, update_wrapper
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.core import Tracer
from jax.experimental import serialize_executable

from backtest.program import source_hash


DIGEST_BYTES = hashlib.sha256().digest_size
_FOLDER: list[Path] = []
_ALL: list["Kept"] = []
_COMPILING = threading.Lock()
_LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def keep_programs(folder: Path | None) -> None:
    """Keep programs in a folder from now on; None = nowhere."""
    _FOLDER[:] = [] if folder is None else [folder]


def forget_programs() -> None:
    """Free the programs of this process; their files stay."""
    for one in _ALL:
        one.programs.clear()
        one.jitted.clear_cache()


class Kept:
    """A function whose compiled programs are kept, one for each kind of arguments.

    Programs for several devices, and calls inside other programs, are left to ``jax.jit``.

    Args:
        function: of pytrees of arrays; every output an array.
        static: names of arguments that are no arrays; they are given by name.
    """

    def __init__(self, function: Callable[..., Any], static: tuple[str, ...] = ()) -> None:
        self.jitted: Any = jax.jit(function, static_argnames=static)
        self.programs: dict[Any, Any] = {}
        self.name = f"{function.__module__}.{function.__qualname__}"
        update_wrapper(self, function)
        _ALL.append(self)

    def __call__(self, *args: Any, **static: Any) -> Any:
        """What the function gives."""
        leaves, tree = jax.tree.flatten(args)
        if not _FOLDER or not all(_is_plain(x) for x in leaves):
            return self.jitted(*args, **static)
        kinds = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves)
        key = tree, kinds, tuple(sorted(static.items()))
        if key not in self.programs:
            text = f"{self.name}\n{tree}\n{kinds}\n{key[2]}\n{_surroundings()}"
            file = _FOLDER[0] / f"{hashlib.sha256(text.encode()).hexdigest()}.bin"
            program = _read(file, args)
            if program is None:
                program = freshly_compiled(self.jitted.lower(*args, **static))
                _write(file, program, args)
            self.programs[key] = program
        return self.programs[key](*args)


def kept(*static: str) -> Callable[[Callable[..., Any]], Kept]:
    """Decorator: the compiled programs of a function are kept; see ``Kept``."""
    return lambda function: Kept(function, static)


def _is_plain(x: Any) -> bool:
    """Whether it is an array of this process that lies on the first device or on none."""
    if isinstance(x, Tracer) or not hasattr(x, "dtype"):
        return False
    return not isinstance(x, jax.Array) or x.devices() == {jax.local_devices()[0]}


def freshly_compiled(lowered: Any) -> Any:
    """A program that comes from the compiler, and that JAX's own cache does not take.

    What JAX has read from its cache lacks parts when it is written a second time.
    """
    with _COMPILING:
        least = getattr(jax.config, _LEAST_SECONDS)
        jax.config.update(_LEAST_SECONDS, float("inf"))
        try:
            return lowered.compile()
        finally:
            jax.config.update(_LEAST_SECONDS, least)


@cache
def _surroundings() -> str:
    """All that a program depends on beside its arguments."""
    device = jax.local_devices()[0]
    flags = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = [
        source_hash(),
        jax.__version__,
        metadata.version("jaxlib"),
        device.client.platform_version,
        device.device_kind,
        platform.machine(),
        flags,
        os.environ.get("XLA_FLAGS", ""),
    ]
    return "\n".join(parts)


def _write(file: Path, program: Any, args: tuple[Any, ...]) -> None:
    """Keep a program if what is kept runs; a full disk or a device that cannot is no error."""
    shape = jax.tree.unflatten(program.out_tree, range(program.out_tree.num_leaves))
    with suppress(OSError, ValueError, NotImplementedError, RuntimeError):
        payload, _, _ = serialize_executable.serialize(program)
        content = pickle.dumps((payload, shape))
        jax.block_until_ready(_loaded(content, args)(*args))
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        # No flush as results have: what a crash leaves is damaged at most, and that is seen.
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _read(file: Path, args: tuple[Any, ...]) -> Any:
    """The program of a file, None where there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        return None
    return _loaded(content[DIGEST_BYTES:], args)


def _loaded(content: bytes, args: tuple[Any, ...]) -> Any:
    payload, shape = pickle.loads(content)
    trees = jax.tree.structure((args, {})), jax.tree.structure(shape)
    return serialize_executable.deserialize_and_load(
        payload, *trees, execution_devices=jax.local_devices()[:1]
    )
