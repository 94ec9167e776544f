"""Parameter sets as tables: every number with its provenance, and what differs."""

from pathlib import Path

import pandas as pd

from backtest.params import LABELS, ParameterSet, load_parameter_set
from backtest.params_compare import differences, rule_text


def load_params(file: str | Path) -> ParameterSet:
    """A parameter set, with what it ``extends``, validated.

    ``numbers()`` gives its numbers as a tree, ``replaced`` a set with other values.

    Raises:
        ConfigError: names the file, the full key path, the value and what is allowed.

    Example:
        >>> load_params("configs/params/okx-merged-2025-01-21.toml").numbers()["mr6"]["factor"]
        0.5
    """
    return load_parameter_set(file)


def parameter_table(params: ParameterSet | str | Path) -> pd.DataFrame:
    """Every number of a set; a row a key with value, unit, provenance, source and rule.

    The rule says how a number follows the market, None where it does not.
    """
    found = params if isinstance(params, ParameterSet) else load_params(params)
    rows = [
        {
            "key": leaf.key,
            "value": leaf.value,
            "unit": leaf.unit,
            "provenance": LABELS[leaf.label],
            "source": leaf.source,
            "rule": rule_text(leaf),
        }
        for leaf in found.leaves()
    ]
    return pd.DataFrame(rows).set_index("key")


def parameter_differences(
    first: ParameterSet | str | Path, second: ParameterSet | str | Path
) -> pd.DataFrame:
    """What differs between two sets: key, what (value, unit, provenance, rule), a and b.

    A key that only one set has is None in the other.
    """
    sets = [s if isinstance(s, ParameterSet) else load_params(s) for s in (first, second)]
    return pd.DataFrame(differences(*sets), columns=["key", "what", "a", "b"])
