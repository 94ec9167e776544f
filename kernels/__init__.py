"""Pure array functions of the margin rules; internal, import ``backtest`` instead.

Map of the package (each function works on ONE element, the engine batches with ``jax.vmap``):

* ``records``: what goes in and what comes out, with the glossary of axes and units;
* ``black76``, ``tiers``: pricing of options, tier tables;
* ``features``: what one contract is worth and weighs at one time, for any margin model;
* ``exposure``: from legs to risk units, sparse products with the shared table;
* ``model``: what a margin model declares; ``models.okx``: MR1 ... MR9; ``models.bybit``: Bybit;
* ``account``: equity, collateral, borrowing, orders, margin level, status;
* ``breakeven``: by how much a charge may grow before the account is liquidated;
* ``episodes``: warning, liquidation, recovery and bankruptcy through time.
"""

PROJECT = "pm-stress"
