"""Where the time of a replay goes: the stages of the compiled program, and what is around it."""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData, ProfileOptions

from backtest import engine as engine_module
from backtest.apart import STAGE_SCOPE
from backtest.bench.laps import seconds_of
from backtest.kept_programs import freshly_compiled


PROGRAM = "through_window"
REST = "between stages"
"""Slices of the tables, copies, and numbers stored for the host."""
_STAGE = re.compile(rf"%(?P<op>\S+) = .* conditional\(.*op_name=\"[^\"]*{STAGE_SCOPE}(?P<name>\w+)")
_LOOP = re.compile(rf"%(?P<op>\S+) = .* while\(.*op_name=\"jit\({PROGRAM}\)/while\"")


@contextmanager
def _replaced(owner: Any, attribute: str, function: Callable[..., Any]) -> Iterator[None]:
    plain = getattr(owner, attribute)
    setattr(owner, attribute, function)
    try:
        yield
    finally:
        setattr(owner, attribute, plain)


def stage_profile(run: Callable[[], Any], traced: list[Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each stage of a replay in one thread, each waited for.

    ``host transfer`` is the answer coming back; ``other`` is Python, padding and joining. The
    compiled program is split in the shares of the traced calls.

    Args:
        run: the replay.
        traced: calls of one shape class each, run under the profiler of JAX.
    """
    spent = {"program": 0.0, "host transfer": 0.0}

    def timed(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            answer: list[Any] = []
            spent[name] += seconds_of(
                lambda: answer.append(jax.block_until_ready(plain(*arguments, **named)))
            )
            return answer[0]

        return call

    program, fetch = engine_module.through_window, jax.device_get
    with (
        _replaced(engine_module, PROGRAM, timed("program", program)),
        _replaced(sys.modules["jax"], "device_get", timed("host transfer", fetch)),
    ):
        total = seconds_of(run)
    around = {"host transfer": spent["host transfer"], "other": total - sum(spent.values())}
    shares = stage_shares(traced)
    return {k: spent["program"] * x for k, x in shares.items()} | around | {"total": total}


def stage_shares(traced: list[Callable[[], Any]]) -> dict[str, float]:
    """Share of the program that each stage takes; one number where no trace can be read."""
    seconds: dict[str, float] = {}
    for call in traced:
        for name, took in _traced(call).items():
            seconds[name] = seconds.get(name, 0.0) + took
    total = sum(seconds.values())
    return {name: took / total for name, took in seconds.items()} if total else {"program": 1.0}


def _traced(call: Callable[[], Any]) -> dict[str, float]:
    """Nanoseconds of the stages during one call."""
    # What was read from disk has no names of stages.
    programs: dict[Any, Any] = {}
    plain = engine_module.through_window

    def recorded(*arguments: Any, **static: Any) -> Any:
        kinds = tuple((x.shape, x.dtype) for x in jax.tree.leaves(arguments))
        if kinds not in programs:
            programs[kinds] = freshly_compiled(plain.jitted.lower(*arguments, **static))
        return jax.block_until_ready(programs[kinds](*arguments))

    options = ProfileOptions()
    options.python_tracer_level = 0
    with _replaced(engine_module, PROGRAM, recorded):
        call()
        with tempfile.TemporaryDirectory() as folder:
            jax.profiler.start_trace(folder, profiler_options=options)
            call()
            jax.profiler.stop_trace()
            (file,) = Path(folder).rglob("*.xplane.pb")
            data = ProfileData.from_file(str(file))
    text = next(iter(programs.values())).as_text() or ""
    stages = {found["op"]: found["name"] for found in _STAGE.finditer(text)}
    return _by_stage(data, stages | {found["op"]: "" for found in _LOOP.finditer(text)})


def _by_stage(data: Any, stages: dict[str, str]) -> dict[str, float]:
    """Nanoseconds by stage; what the loop over times takes besides them is the rest."""
    spent: dict[str, float] = {}
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in stages:
                    name = stages[event.name]
                    spent[name] = spent.get(name, 0.0) + event.duration_ns
    whole = spent.pop("", 0.0)
    return spent | {REST: max(whole - sum(spent.values()), 0.0)} if spent else {}
