"""Arrays of tiles on the host: filled up to the sizes of programs, compared, put together again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backtest.scores import Scores
from backtest.tile_programs import Through
from backtest.window_records import TileResult, by_account


INSTRUMENT_STEP = 256
"""The instrument axis is padded to 256, 512, 768, 1152, 1728 ... contracts."""


def padded_instruments(x: Any) -> np.ndarray:
    """The instrument axis (the last one) filled up with the null contract it begins with.

    A few lengths serve all datasets, so that they share compiled programs.
    """
    x = np.asarray(x)
    count = x.shape[-1]
    length = INSTRUMENT_STEP
    while length < count:
        length += max(INSTRUMENT_STEP, length // 2)
    return np.concatenate([x, np.repeat(x[..., :1], length - count, axis=-1)], axis=-1)


def padded_piece(x: np.ndarray, part: slice, size: int) -> np.ndarray:
    """A slice of the last axis, filled up with zeros."""
    piece = x[..., part]
    if piece.shape[-1] == size:
        return piece
    out = np.zeros((*piece.shape[:-1], size), piece.dtype)
    out[..., : piece.shape[-1]] = piece
    return out


def all_equal(leaves: tuple[Any, ...]) -> bool:
    """Whether arrays hold the same numbers at all times; NaN is itself."""
    first, *others = leaves
    if all(x is first for x in others):
        return True
    first, *others = (_once(np.asarray(x)) for x in leaves)
    kind = {"equal_nan": True} if first.dtype.kind == "f" else {}
    return all(np.array_equal(first, x, **kind) for x in others)


def _once(x: np.ndarray) -> np.ndarray:
    """A view without the repetitions of numbers that are the same at all times."""
    return x[:1] if x.ndim and x.strides[0] == 0 else x


def joined_times(before: Through, after: Through, mask: np.ndarray, by_set: bool) -> Through:
    """A window whose times in the mask were computed after the others."""

    def at_times(old: Any, new: Any) -> Any:
        inside = new.ndim - (2 if by_set else 1)
        return jnp.where(mask.reshape(-1, *(1,) * inside), new, old)

    margin, codes, changes = jax.tree.map(
        at_times,
        (before.margin, before.codes, before.changes),
        (after.margin, after.codes, after.changes),
    )
    return Through(after.state, margin, codes, before.sums + after.sums, after.ledger, changes)


def joined_tiles(results: list[TileResult], num_accounts: int) -> TileResult:
    """The tiles of a batch as one result, their sums added up."""
    if len(results) == 1:
        return results[0]

    def concatenate(*parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts, axis=-1)

    # What is None stays None.
    parts = jax.tree.map(concatenate, *[by_account(r) for r in results])
    state, codes, ledger, changes = parts
    scores = Scores([tile for r in results for tile in r.scores.tiles], num_accounts)
    sums = results[0].sums.copy()
    for one in results[1:]:
        sums += one.sums
    return TileResult(state, codes, scores, sums, ledger, changes)
