"""Liquidation as it happens, on arrays: the stages of a margin model, slice by slice.

* ``records``: numbers, books with room for hedges, trades, what one slice did;
* ``slots``: the contracts of an account as one list; sums over units and over maturities;
* ``trades``: sizes of slices, costs, the book after a trade;
* ``situation``: an account between two slices, and what a trade would lead to;
* ``searches``: the first or the best of the slices that a stage may take;
* ``debts``: repaying debts by selling assets;
* ``okx``, ``bybit``: the stages of each model; ``stages``: those that models share;
* ``loop``: one slice of every account, from the first stage that has something to do.

Accounts lie on the LAST axis everywhere. One time and one parameter set.
"""
