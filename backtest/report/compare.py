"""Two parameter sets on the same accounts and the same market: who flips, and who they are."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from backtest.errors import ConfigError, DataError

from . import frames, text
from .reader import Results


OUTCOMES = ("both", "only_champion", "only_challenger", "neither")
HEDGE_BANDS = (
    "hedged: below 10 %",
    "partly hedged: 10 to 50 %",
    "directional: above 50 %",
    "no positions",
)
OPTION_BANDS = (
    "no options",
    "up to 25 %",
    "25 to 50 %",
    "50 to 75 %",
    "above 75 %",
    "no positions",
)
_START = (
    "segment",
    "start_equity_usd",
    "start_gross_notional_usd",
    "start_option_notional_usd",
    "start_net_delta_usd",
)
_OUTCOME = ("account_id", "scored", "episodes", "first_liquidation_time", "worst_margin_level")


@dataclass(frozen=True)
class McNemar:
    """Test of equal liquidation probability on paired accounts; None where no pair disagrees.

    Attributes:
        statistic: ``(b - c)^2 / (b + c)``, chi-square with one degree of freedom.
        p_value: Of the statistic, which takes accounts as independent.
        exact_p_value: Binomial, for few disagreeing pairs; the same caveat.
    """

    statistic: float | None
    p_value: float | None
    exact_p_value: float | None


@dataclass(frozen=True)
class Pairing:
    """Counts of accounts that both sets scored, by who liquidates them."""

    champion: str
    challenger: str
    both: int
    only_champion: int
    only_challenger: int
    neither: int
    not_paired: int
    test: McNemar

    @property
    def pairs(self) -> int:
        """Accounts scored under both sets."""
        return self.both + self.only_champion + self.only_challenger + self.neither


def mcnemar(only_champion: int, only_challenger: int) -> McNemar:
    """McNemar's test from the two disagreeing counts.

    Example:
        >>> round(mcnemar(25, 10).statistic, 4)
        6.4286
    """
    total = only_champion + only_challenger
    if not total:
        return McNemar(None, None, None)
    statistic = (only_champion - only_challenger) ** 2 / total
    tail = special.bdtr(min(only_champion, only_challenger), total, 0.5)
    return McNemar(statistic, float(special.chdtrc(1, statistic)), min(1.0, 2 * float(tail)))


def pair_accounts(results: Results, champion: str, challenger: str) -> pd.DataFrame:
    """One row for each account that both sets scored, with what it held at the start of the window.

    Columns: account_id, segment, start_*, ``level_champion`` and ``level_challenger`` (worst margin
    level, NaN where nothing was required), ``outcome`` (one of ``OUTCOMES``), ``flip_time`` (first
    liquidation under the only set that liquidates the account, else NaT).
    """
    return _pairs(results, champion, challenger)[0]


def _pairs(results: Results, champion: str, challenger: str) -> tuple[pd.DataFrame, int]:
    """The pairs and the number of accounts left out; only the last two sets stay in memory."""
    if champion == challenger:
        raise ConfigError(f"champion and challenger are both {champion!r}; name two sets")
    sets, slot = (champion, challenger), ("pairs",)
    if slot not in results.memo or results.memo[slot][0] != sets:
        results.memo.pop(slot, None)
        results.memo[slot] = (sets, _pair(results, champion, challenger))
    return results.memo[slot][1]


def pairing(results: Results, champion: str, challenger: str) -> Pairing:
    """Counts of the flip table with McNemar's test."""
    key = ("pairing", champion, challenger)
    if key not in results.memo:
        pairs, left_out = _pairs(results, champion, challenger)
        counts = {str(k): int(v) for k, v in frames.counted(pairs["outcome"]).items()}
        both, only_a, only_b, neither = (counts.get(k, 0) for k in OUTCOMES)
        results.memo[key] = Pairing(
            champion,
            challenger,
            both=both,
            only_champion=only_a,
            only_challenger=only_b,
            neither=neither,
            not_paired=left_out,
            test=mcnemar(only_a, only_b),
        )
    return results.memo[key]


def _pair(results: Results, champion: str, challenger: str) -> tuple[pd.DataFrame, int]:
    a = _outcomes(results, champion, (*_OUTCOME, *_START))
    b = _outcomes(results, challenger, _OUTCOME)
    if not (len(a) == len(b) and a["account_id"].equals(b["account_id"])):
        ids = pd.Index(a["account_id"]).union(pd.Index(b["account_id"]), sort=False)
        total = len(ids)
        common = pd.Index(a["account_id"]).intersection(pd.Index(b["account_id"]), sort=False)
        a = a.set_index("account_id").loc[common].reset_index(names="account_id")
        b = b.set_index("account_id").loc[common].reset_index(names="account_id")
    else:
        total = len(a)
    keep = (a["scored"].to_numpy() > 0) & (b["scored"].to_numpy() > 0)
    was, now = a["episodes"].to_numpy() > 0, b["episodes"].to_numpy() > 0
    code = np.select([was & now, was, now], [0, 1, 2], 3)
    pairs = a[["account_id", *_START]].copy()
    times = a["first_liquidation_time"].where(code == 1, b["first_liquidation_time"])
    pairs["flip_time"] = times.where((code == 1) | (code == 2))
    pairs["level_champion"] = a["worst_margin_level"].to_numpy(dtype=float)
    pairs["level_challenger"] = b["worst_margin_level"].to_numpy(dtype=float)
    pairs["outcome"] = pd.Categorical.from_codes(code, categories=list(OUTCOMES))
    if not keep.all():
        pairs = frames.rows(pd.DataFrame(pairs), keep)
    return pd.DataFrame(pairs), total - len(pairs)


def _outcomes(results: Results, parameter_set: str, columns: tuple[str, ...]) -> pd.DataFrame:
    frame = results.accounts(columns, parameter_set)
    twice = frames.rows(frame, frame.duplicated("account_id"))
    if len(twice):
        raise DataError(
            f"{results.path / 'accounts'}: parameter set {parameter_set!r} has {len(twice)} "
            f"accounts twice, {twice['account_id'].tolist()[0]!r} for one; a row is one account"
        )
    return frame


def bands(pairs: pd.DataFrame) -> dict[str, pd.Categorical]:
    """Who an account is at the start of the window: groups of each dimension in display order."""
    gross = frames.numbers(pairs, "start_gross_notional_usd")
    has = gross > 0
    safe = np.where(has, gross, 1.0)
    option = np.where(has, frames.numbers(pairs, "start_option_notional_usd") / safe, -1.0)
    delta = np.where(has, np.abs(frames.numbers(pairs, "start_net_delta_usd")) / safe, -1.0)
    option_code = np.select(
        [~has, option <= 0, option <= 0.25, option <= 0.5, option <= 0.75], [5, 0, 1, 2, 3], 4
    )
    hedge_code = np.select([~has, delta < 0.1, delta <= 0.5], [3, 0, 1], 2)
    option_band = pd.Categorical.from_codes(option_code, categories=list(OPTION_BANDS))
    return {
        "segment": pd.Categorical(frames.names(pairs, "segment").fillna("(no segment)")),
        "option share of gross notional": option_band,
        "size decile (gross notional)": _deciles(gross),
        "|net delta| / gross notional": pd.Categorical.from_codes(
            hedge_code, categories=list(HEDGE_BANDS)
        ),
    }


def _deciles(gross: np.ndarray) -> pd.Categorical:
    edges = np.unique(np.quantile(gross, np.linspace(0, 1, 11))) if len(gross) else np.zeros(1)
    upper = edges[1:] if len(edges) > 1 else edges
    code = np.minimum(np.searchsorted(upper, gross, side="left"), len(upper) - 1)
    lower = [edges[0], *upper[:-1]]
    names = [
        f"{i + 1}: {text.usd(low)} to {text.usd(high)}"
        for i, (low, high) in enumerate(zip(lower, upper, strict=True))
    ]
    return pd.Categorical.from_codes(code, categories=names)


def flip_table(results: Results, champion: str, challenger: str) -> pd.DataFrame:
    """The flip table by group: accounts, the four outcomes, net = newly liquidated - saved.

    Columns: dimension, group, accounts, both, only_champion, only_challenger, neither, net. Groups
    of a dimension add up to the flip table of all accounts.
    """
    key = ("flip_table", champion, challenger)
    if key not in results.memo:
        results.memo[key] = _flip_table(pair_accounts(results, champion, challenger))
    return results.memo[key]


def _flip_table(pairs: pd.DataFrame) -> pd.DataFrame:
    outcome = pd.Categorical(pairs["outcome"], categories=list(OUTCOMES))
    found = []
    for dimension, group in bands(pairs).items():
        size = len(group.categories) * len(OUTCOMES)
        cells = group.codes.astype(np.int64) * len(OUTCOMES) + outcome.codes
        counts = np.bincount(cells, minlength=size).reshape(-1, len(OUTCOMES))
        for name, row in zip(group.categories, counts.tolist(), strict=True):
            if sum(row):
                by_outcome = dict(zip(OUTCOMES, row, strict=True))
                found.append(
                    {"dimension": dimension, "group": str(name), "accounts": sum(row)} | by_outcome
                )
    table = pd.DataFrame(found, columns=["dimension", "group", "accounts", *OUTCOMES])
    return table.assign(net=table["only_challenger"] - table["only_champion"])


def flipped_accounts(results: Results, champion: str, challenger: str) -> pd.DataFrame:
    """Accounts that one set liquidates and the other does not, the largest first."""
    key = ("flipped_accounts", champion, challenger)
    if key not in results.memo:
        pairs = pair_accounts(results, champion, challenger)
        flipped = frames.rows(pairs, pairs["outcome"].isin(["only_champion", "only_challenger"]))
        flipped = flipped.assign(outcome=flipped["outcome"].astype(str))
        order = ["start_gross_notional_usd", "account_id"]
        results.memo[key] = frames.ordered(flipped, order, [False, True])
    return results.memo[key]
