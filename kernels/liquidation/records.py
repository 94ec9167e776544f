"""Records of liquidation: numbers, a book with room for hedges, trades, and what a slice did.

Axes besides those of ``kernels.records``:

* ``slot``: contracts of an account as one list: the legs without optionality, unit after unit,
  then the expiring legs of the units that hold options;
* ``holding``: the coin of each unit, then the quote currencies;
* ``maturity``: buckets of a unit: expiry times in their order, perpetuals, spot in use;
* ``stage``: in the order in which they are asked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Bool, Float, Int

from kernels.records import Book, Contract, Values


WHY = (
    "safe",
    "limit",
    "nothing_left",
    "other_stage",
    "not_largest",
    "no_gain",
    "no_orders",
    "no_opposite",
    "no_debt",
    "not_due",
    "no_stable_pairs",
    "too_small",
    "paid_elsewhere",
)
"""Why a stage has nothing to do, and why a step ended."""
(
    SAFE,
    LIMIT,
    NOTHING_LEFT,
    OTHER_STAGE,
    NOT_LARGEST,
    NO_GAIN,
    NO_ORDERS,
    NO_OPPOSITE,
    NO_DEBT,
    NOT_DUE,
    NO_STABLE_PAIRS,
    TOO_SMALL,
    PAID_ELSEWHERE,
) = range(len(WHY))

OF_TIER, AVERAGE, NO_MULTIPLIER = range(3)
"""Which multiplier of the minimum charge a unit trades at."""

NO_PLACE = -1
"""Of instruments in which no hedge is opened, of targets that do not apply."""


class LiquidationRules(eqx.Module):
    """Numbers of a liquidation file, with the levels that the parameter set has for it.

    Fields (fractions unless the name says otherwise):
        slice_frac, min_usd: size of a slice; max_slices, max_steps: of one time.
        taker_rate, spot_rate, option_cap: fees; the cap is a share of an option's value.
        uses_minimum_charge: slippage is ``minimum_charge_share`` of the model's minimum charge
            times ``multiplier``; else ``linear_rates`` by currency and ``option_rate``.
        may_open: whether hedges are opened; spot_quote: what spot is exchanged for, among quotes.
        reduces_debts: whether debts are legs of the reduction.
        lowest_rate_first: which assets are sold first; min_debt_usd: smaller ones are left alone.
        repay_level: level at and below which debts are repaid.
        group_place: when perpetuals and futures, short and long options are closed.
        order: names of the stages.
    """

    slice_frac: Float[Values, ""]
    min_usd: Float[Values, ""]
    max_slices: Int[Values, ""]
    max_steps: Int[Values, ""]
    taker_rate: Float[Values, ""]
    spot_rate: Float[Values, ""]
    option_cap: Float[Values, ""]
    uses_minimum_charge: Bool[Values, ""]
    minimum_charge_share: Float[Values, ""]
    multiplier: Int[Values, ""]
    linear_rates: Float[Values, " currency"]
    option_rate: Float[Values, ""]
    may_open: Bool[Values, ""]
    spot_quote: Int[Values, ""]
    reduces_debts: Bool[Values, ""]
    lowest_rate_first: Bool[Values, ""]
    min_debt_usd: Float[Values, ""]
    repay_level: Float[Values, ""]
    group_place: Int[Values, " group"]
    order: tuple[str, ...] = eqx.field(static=True)


class Listing(eqx.Module):
    """Contracts of the instrument axis: terms, place by name, place among perpetuals to open.

    ``hedge_place`` is ``NO_PLACE`` for what is not opened; the most liquid comes first.
    """

    terms: Contract
    name_rank: Int[Values, " instrument"]
    hedge_place: Int[Values, " instrument"]


class Room(eqx.Module):
    """A book in which hedges can be opened; the same contracts in the same slots of all portfolios.

    Fields:
        book: with slots of 0 contracts for the perpetuals of every unit.
        entry: entry value of each slot in its settle currency: ``-n m entry`` linear,
            ``n m / entry`` inverse, 0 for options; base = cash + entry values.
        maturity: bucket of each slot; num_maturities: how many there are at most.
    """

    book: Book
    entry: Float[Values, " slot *account"]
    maturity: Int[Values, " slot *account"]
    num_maturities: int = eqx.field(static=True)


class Trade(eqx.Module):
    """What is traded: signed changes of contracts, and units bought of coins and currencies.

    Fields:
        contracts: change of each slot.
        spot: units bought of each holding (sold: negative), against the holding ``into``.
    """

    contracts: Float[Values, " slot *account"]
    spot: Float[Values, " holding *account"]
    into: Int[Values, " *account"]


class Costs(eqx.Module):
    """Fee and slippage of a trade in USD, by slot and by holding, >= 0."""

    fee: Float[Values, " slot *account"]
    slippage: Float[Values, " slot *account"]
    spot_fee: Float[Values, " holding *account"]
    spot_slippage: Float[Values, " holding *account"]


class Target(eqx.Module):
    """What a slice works on.

    Fields:
        unit: risk unit, ``NO_PLACE`` = the account.
        first, second: DDH1: pair; DDH2: slot; basis: long and short maturity; reduction and
            partial: slot, or number of slots + holding of a debt, ``NO_PLACE`` = a slice of all;
            repaying: holding.
        value_usd: the charge that led here, what the slice frees, or the debt that is repaid.
    """

    unit: Int[Values, " *account"]
    first: Int[Values, " *account"]
    second: Int[Values, " *account"]
    value_usd: Float[Values, " *account"]


class Choice(eqx.Module):
    """The slice of a stage, where it has one; else why not (``WHY``)."""

    found: Bool[Values, " *account"]
    why: Int[Values, " *account"]
    cancels: Bool[Values, " *account"]
    trade: Trade
    target: Target


class Origin(eqx.Module):
    """Accounts when a stage first had a slice, which its slices are shares of.

    The stage axis comes first, or the record is of one stage.

    Fields:
        begun: whether it had one.
        contracts: held; equity: by holding, units; spot, delta: of each unit, coins.
        hedged_usd: what each stablecoin pair hedges in each unit.
    """

    begun: Bool[Values, "..."]
    contracts: Float[Values, "..."]
    equity: Float[Values, "..."]
    spot: Float[Values, "..."]
    delta: Float[Values, "..."]
    hedged_usd: Float[Values, "..."]


class Level(eqx.Module):
    """An account between two slices: margin level, requirement, equity, charges; USD."""

    level: Float[Values, " *account"]
    mmr_usd: Float[Values, " *account"]
    equity_usd: Float[Values, " *account"]
    charges: dict[str, Float[Values, " *account"]]


class Progress(eqx.Module):
    """Accounts in the middle of their liquidation.

    Fields:
        room: what they hold now.
        is_new: whether nothing was asked yet; is_priced: whether every price is known.
        running: whether there may be more slices; active: from the trigger on to the safe level.
        slices, steps: so far; stage: of the last slice, ``NO_PLACE`` = none.
        is_full: whether the slices of one time were used up.
        has_legs: whether a live contract is held; equity: by holding, units.
        origin: see there; now: the account after its last slice; first: before its first.
        why: what every stage had to say at last.
    """

    room: Room
    is_new: Bool[Values, " *account"]
    is_priced: Bool[Values, " *account"]
    running: Bool[Values, " *account"]
    active: Bool[Values, " *account"]
    slices: Int[Values, " *account"]
    steps: Int[Values, " *account"]
    stage: Int[Values, " *account"]
    is_full: Bool[Values, " *account"]
    has_legs: Bool[Values, " *account"]
    equity: Float[Values, " holding *account"]
    origin: Origin
    now: Level
    first: Level
    why: Int[Values, " stage *account"]


class SliceRecord(eqx.Module):
    """What a slice did; ``stage`` is ``NO_PLACE`` where an account had none."""

    stage: Int[Values, " *account"]
    why: Int[Values, "..."]
    before: Level
    trade: Trade
    costs: Costs
    target: Target


class LiquidationModel(NamedTuple):
    """What a margin model says about its liquidation.

    Fields:
        name: as in the ``model`` key of liquidation files.
        stages: by name, ``(situation, origin, rulebook)`` -> a choice, or a ``searches.Search``
            for a slice that lowers the maintenance margin.
        always: stages that are asked whether or not the account is being liquidated.
        safe_at_bound: whether the safe level itself is safe.
        minimum_charge: ``(table, params)`` -> USD of one contract held long, held short, and of
            one USD of spot by currency; None where the model has none.
        multiplier: ``(raw USD, coin, choice, params)`` -> multiplier of a unit.
        hedged_pairs: cash delta by settlement group -> USD hedged by each stablecoin pair.
        num_pairs: how many of these there are.
    """

    name: str
    stages: dict[str, Callable[..., Any]]
    always: tuple[str, ...]
    safe_at_bound: bool
    minimum_charge: Callable[..., Any] | None
    multiplier: Callable[..., Any]
    hedged_pairs: Callable[..., Any]
    num_pairs: int
