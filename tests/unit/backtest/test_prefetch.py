import threading
from collections.abc import Callable
from typing import Any

import pytest

from backtest.prefetch import Prefetch
from backtest.stages import STAGES, Stages, total


class Loads:
    """Values by key, with a record of what was loaded and in which thread."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.threads: dict[int, str] = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, key: int) -> str:
        self.keys.append(key)
        self.threads[key] = threading.current_thread().name
        assert self.gate.wait(30)
        if key < 0:
            raise ValueError(f"no {key}")
        return f"value {key}"


@pytest.fixture
def loads() -> Loads:
    return Loads()


def test_the_next_one_is_loaded_beside(loads: Loads):
    ahead = Prefetch(loads)
    assert ahead.get(1, 2) == "value 1"
    assert ahead.get(2, 3) == "value 2"
    assert ahead.get(3) == "value 3"
    assert loads.keys == [1, 2, 3]
    assert loads.threads[1] == threading.current_thread().name
    assert loads.threads[2] == loads.threads[3] == "prefetch"


def test_asking_again_loads_nothing(loads: Loads):
    ahead = Prefetch(loads)
    for _ in range(3):
        assert ahead.get(1, 2) == "value 1"
    assert ahead.get(2, 2) == "value 2"
    assert sorted(loads.keys) == [1, 2]


def test_it_does_not_wait_for_what_is_next(loads: Loads):
    ahead = Prefetch(loads)
    ahead.get(1)
    loads.gate.clear()
    assert ahead.get(1, 2) == "value 1"
    loads.gate.set()
    assert ahead.get(2) == "value 2"


def test_another_key_than_foretold(loads: Loads):
    ahead = Prefetch(loads)
    ahead.get(1, 2)
    assert ahead.get(5) == "value 5"
    assert ahead.get(2) == "value 2"
    assert sorted(loads.keys) == [1, 2, 2, 5]


def test_an_error_comes_when_the_value_is_asked_for(loads: Loads):
    ahead = Prefetch(loads)
    assert ahead.get(1, -1) == "value 1"
    with pytest.raises(ValueError, match="no -1"):
        ahead.get(-1)
    with pytest.raises(ValueError, match="no -1"):
        ahead.get(-1)
    assert ahead.get(2) == "value 2"


def clock(*times: float) -> Callable[[], float]:
    left = iter(times)
    return lambda: next(left)


def test_seconds_add_up_by_stage():
    stages = Stages(clock(0.0, 1.5, 2.0, 4.0, 10.0, 10.5))
    with stages("read"):
        pass
    with stages("compute"):
        pass
    with pytest.raises(ValueError, match="gone"), stages("read"):
        raise ValueError("gone")
    assert stages.seconds == {"read": 2.0, "batch": 0.0, "compute": 2.0, "write": 0.0}


def test_total_over_buckets():
    parts: list[dict[str, Any]] = [{"read": 1.00049, "write": 2.0}, {}, {"read": 0.5}]
    assert total(parts) == {"read": 1.5, "batch": 0.0, "compute": 0.0, "write": 2.0}
    assert tuple(total([])) == STAGES
