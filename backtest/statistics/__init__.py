"""Statistics of margin backtests: is the model right, is the margin enough, who is short?

| module | answers |
|---|---|
| ``records`` | what goes in: outcomes, breach sequences and counts, each of one kind of backtest |
| ``findings`` | what comes out: statistic, p values, a verdict in words, one kind of backtest |
| ``tables`` | breach tables in the shape that supervisors ask for |
| ``coverage`` | how many breaches: Kupiec, binomial, exact and mid p values, exact intervals |
| ``traffic_light`` | zones for any number of observations, level and overlap |
| ``independence`` | do breaches follow each other: Christoffersen, asymptotic and exact |
| ``timing`` | when they come: first failure, time between failures, Weibull durations |
| ``dynamic_quantile`` | can they be predicted: Engle and Manganelli |
| ``severity`` | how bad they are: Acerbi and Szekely, McNeil and Frey |
| ``calibration_tests`` | VaR and ES together: Nolde and Ziegel, traffic light of ES |
| ``scores`` | which set is better: tick loss, FZ0, Diebold and Mariano |
| ``multiple`` | many accounts at once: Holm, Benjamini-Hochberg and -Yekutieli |
| ``overfitting``, ``confidence_set`` | has a search learnt from noise, which sets may be the best |
| ``procyclicality`` | how margin moves with the market; tools that slow it |
| ``attribution`` | what margin and liquidations are made of: shares, waterfall, Shapley |
| ``power`` | what a test could have seen, and what it could not |
| ``frequency_curve`` | who is liquidated if a charge were scaled, from one replay |
| ``blocks`` | intervals that respect dependence: the stationary bootstrap over time |

Source ids in the docstrings (``C1`` ... ``C15``) are the features of the backtesting rules.
"""
