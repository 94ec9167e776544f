"""Warning, liquidation, recovery and bankruptcy of one account through time.

An *episode* starts when the margin level reaches the trigger and ends when it is re-armed above
the safe level, so that an account hovering at the trigger counts once.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels import status
from kernels.model import AccountRules
from kernels.records import AccountMargin, Values


WARNED, STARTED, RECOVERED, BANKRUPTED, CONVERTED = (8, 16, 32, 64, 128)
"""Event bits of a code, above the three bits of the status; the last comes from ``debts``."""
STATUS_MASK = 7
EVENT_BITS = {
    "warning": WARNED,
    "liquidation": STARTED,
    "recovered": RECOVERED,
    "bankrupt": BANKRUPTED,
    "converted": CONVERTED,
}


class AccountState(eqx.Module):
    """What one account remembers from one time to the next; one parameter set.

    Fields:
        is_warned, in_episode, is_bankrupt: flags of the event rules.
        episodes: episodes begun; first_time: index of the grid time of the first, -1 = none.
        scored, unpriced, liquidation_times: grid times counted.
        worst: lowest margin level with its time, equity, requirement and charges.
        lowest_equity_usd: lowest equity.
        theta: lowest break-even multipliers, which ``account.batch_theta`` keeps.
    """

    is_warned: Bool[Values, " *account"]
    in_episode: Bool[Values, " *account"]
    is_bankrupt: Bool[Values, " *account"]
    episodes: Int[Values, " *account"]
    first_time: Int[Values, " *account"]
    scored: Int[Values, " *account"]
    unpriced: Int[Values, " *account"]
    liquidation_times: Int[Values, " *account"]
    worst_level: Float[Values, " *account"]
    worst_time: Int[Values, " *account"]
    worst_adjusted_equity: Float[Values, " *account"]
    worst_equity_usd: Float[Values, " *account"]
    worst_total_mmr: Float[Values, " *account"]
    worst_charges: dict[str, Float[Values, " *account"]]
    lowest_equity_usd: Float[Values, " *account"]
    theta: dict[str, Float[Values, " *account"]]


def advance(
    state: AccountState, margin: AccountMargin, time: Int[Array, ""], rules: AccountRules
) -> tuple[AccountState, Int[Array, ""]]:
    """State after one time and the code of that time: status plus event bits.

    A time at which the account is unpriced is counted and changes nothing else.
    """
    priced = margin.status != status.UNPRICED
    level = margin.margin_level
    at_trigger = priced & (level <= rules.liquidation_level)
    is_safe = priced & (level > rules.safe_level)
    below_warning = priced & (level < rules.warning_level)

    started = at_trigger & ~state.in_episode
    recovered = is_safe & state.in_episode
    in_episode = (state.in_episode | started) & ~recovered
    warned = below_warning & ~at_trigger & ~state.is_warned & ~state.in_episode
    is_warned = jnp.where(priced, below_warning, state.is_warned)
    in_debt = priced & (margin.equity_usd < 0)
    bankrupted = in_debt & ~state.is_bankrupt
    is_bankrupt = (state.is_bankrupt | in_debt) & ~recovered

    code = (
        margin.status
        + jnp.where(warned, WARNED, 0)
        + jnp.where(started, STARTED, 0)
        + jnp.where(recovered, RECOVERED, 0)
        + jnp.where(bankrupted, BANKRUPTED, 0)
    )
    worse = priced & (level < state.worst_level)

    def count(so_far: Int[Array, ""], happened: Bool[Array, ""]) -> Int[Array, ""]:
        return so_far + happened.astype(so_far.dtype)

    def keep_worst(new: Array, old: Array) -> Array:
        return jnp.where(worse, new, old)

    def keep_priced(new: Array, old: Array) -> Array:
        return jnp.where(priced, new, old)

    lower = jnp.minimum(state.lowest_equity_usd, margin.equity_usd)
    return AccountState(
        is_warned=is_warned,
        in_episode=in_episode,
        is_bankrupt=is_bankrupt,
        episodes=count(state.episodes, started),
        first_time=jnp.where(started & (state.first_time < 0), time, state.first_time),
        scored=count(state.scored, priced),
        unpriced=count(state.unpriced, ~priced),
        liquidation_times=count(state.liquidation_times, at_trigger),
        worst_level=keep_worst(level, state.worst_level),
        worst_time=keep_worst(time, state.worst_time),
        worst_adjusted_equity=keep_worst(margin.adjusted_equity, state.worst_adjusted_equity),
        worst_equity_usd=keep_worst(margin.equity_usd, state.worst_equity_usd),
        worst_total_mmr=keep_worst(margin.total_mmr, state.worst_total_mmr),
        worst_charges=jax.tree.map(keep_worst, margin.charges, state.worst_charges),
        lowest_equity_usd=keep_priced(lower, state.lowest_equity_usd),
        theta=state.theta,
    ), code
