"""What notebooks call: whole runs, saved results, what-if margins, as pandas and matplotlib.

The names are public through `backtest` itself, which imports them when they are first used.
"""
