"""What accounts that come, go and come back have come to, from cells of those that are there."""

import numpy as np

from backtest.account_state import START_FIELDS, Carryover, Roll, flat
from backtest.cells import Cell
from backtest.engine import initial_state
from kernels.models import MODELS_BY_NAME


MODEL = MODELS_BY_NAME["okx"]


def _carryover(roll: Roll) -> Carryover:
    return Carryover(roll, MODEL, multipliers=True, num_currencies=2)


def _cell(ids: list[str], episodes: list[int], equity: list[float], **extra: np.ndarray) -> Cell:
    state = flat(initial_state(len(ids), MODEL))
    state["episodes"][:] = episodes
    numbers = np.asarray(equity)
    starts = {name: numbers.copy() for name in START_FIELDS}
    ledger = {"ledger_change_units": np.stack([numbers, -numbers])}
    kept_out = {
        "quarantined_ids": np.asarray(["z"]),
        "quarantined_times": np.asarray([3]),
    }
    return Cell(
        accounts=np.asarray(ids),
        state=state,
        sums=np.zeros((1, 1, 1), np.int64),
        counts={},
        files=[],
        extra={"segment": np.arange(len(ids)), **starts, **ledger, **kept_out, **extra},
    )


def test_places_on_the_roll_are_in_the_order_of_coming() -> None:
    roll = Roll()
    assert roll.places(np.asarray(["b", "d"])).tolist() == [0, 1]
    assert roll.places(np.asarray(["a", "b", "c"])).tolist() == [2, 0, 3]
    assert roll.places(np.asarray(["b", "d"])).tolist() == [0, 1]
    assert roll.ids.tolist() == ["b", "d", "a", "c"]
    assert len(roll) == 4


def test_an_account_that_comes_back_has_what_it_had() -> None:
    carried = _carryover(Roll())
    carried.take_in(_cell(["a", "b"], [1, 2], [10.0, 20.0]))
    carried.take_in(_cell(["b", "c"], [3, 4], [21.0, 30.0]))
    asked = np.asarray(["a", "b", "new"])
    assert carried.state(asked).episodes.tolist() == [1, 3, 0]
    extra = carried.extra(asked)
    np.testing.assert_array_equal(extra["start_equity_usd"], [10.0, 21.0, np.nan])
    assert extra["quarantined_ids"].tolist() == ["z"]
    kept = carried.ledger(asked, keeps_changes=True).change_units
    np.testing.assert_array_equal(kept, [[10.0, 21.0, 0.0], [-10.0, -21.0, 0.0]])
    fresh = carried.ledger(asked, keeps_changes=False).change_units
    np.testing.assert_array_equal(fresh, np.zeros((2, 3)))


def test_the_whole_has_every_account_ascending_and_what_the_last_cell_has() -> None:
    carried = _carryover(Roll())
    carried.take_in(_cell(["b", "d"], [1, 2], [10.0, 20.0]))
    last = _cell(["a", "d"], [3, 4], [30.0, 40.0], settled=np.asarray(7))
    del last.extra["start_equity_usd"]
    carried.take_in(last)
    whole = carried.whole()
    assert whole.accounts.tolist() == ["a", "b", "d"]
    assert whole.state["episodes"].tolist() == [3, 1, 4]
    assert whole.extra["start_net_delta_usd"].tolist() == [30.0, 10.0, 40.0]
    assert whole.extra["settled"] == 7
    assert "start_equity_usd" not in whole.extra
    assert "written_off_usd" not in whole.extra


def test_what_is_taken_does_not_change_what_is_carried() -> None:
    carried = _carryover(Roll())
    carried.take_in(_cell(["a"], [1], [10.0]))
    carried.state(np.asarray(["a"])).episodes[:] = 9
    assert carried.state(np.asarray(["a"])).episodes.tolist() == [1]
