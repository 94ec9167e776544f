"""Search of parameter levels: many candidate sets a replay, chosen on bounds, tried out of sample.

| module | does |
|---|---|
| ``config`` | the configuration of a calibration |
| ``space`` | parameters searched: from points to parameter files |
| ``designs``, ``adaptive`` | which points: grid, Sobol in nested boxes; TPE and NSGA-II (extra) |
| ``series`` | what a candidate leaves behind: sums by block of time |
| ``evaluate`` | a batch of candidates through one replay; one saved file a batch |
| ``objectives`` | values and upper bounds of the objectives over any stretch of time |
| ``select`` | constraints, frontier, knee, trust region, choice |
| ``folds`` | walk-forward folds with purge |
| ``calibrate`` | the whole, resumable |
| ``standing`` | accounts of a run as they stand at single times, and the market then |
| ``gradients``, ``sensitivities`` | slopes by autodiff of the kernels; tornado, starts |
| ``nearest``, ``reverse_stress`` | the nearest scenario that liquidates much |
| ``core_model`` | which charges of each margin model a core-model backtest leaves out, and why |
| ``backtests`` | core-model and margin-adequacy backtests from the traces of a run |
| ``coverage_study``, ``coverage_page`` | these backtests over several horizons, and their page |
| ``linear`` | which parameters scale a charge, exactly or not |
| ``verdict``, ``figures``, ``page``, ``study_page`` | the report, from saved results |
"""
