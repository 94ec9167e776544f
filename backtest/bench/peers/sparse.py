"""The scenario stage as a sparse matrix product: positions of all accounts times the table."""

import numpy as np
from scipy.sparse import csr_array

from backtest.bench.flat import FlatBook, FlatContracts
from kernels.records import FUTURE, OPTION


class SparsePeer:
    """Positions of units with options [account, instrument] and of everything [unit, instrument].

    Args:
        book: the accounts.
        contracts: terms of the instruments.
        precision: dtype of positions and tables.
    """

    def __init__(self, book: FlatBook, contracts: FlatContracts, precision: str) -> None:
        num_accounts, num_instruments = len(book.unit_start) - 1, len(contracts.kind)
        self.num_accounts = num_accounts
        unit_of_leg = np.repeat(np.arange(len(book.unit_coin)), np.diff(book.leg_start))
        account = np.repeat(np.arange(num_accounts), np.diff(book.unit_start))[unit_of_leg]
        kind = contracts.kind[book.leg_instrument]
        wide = book.has_options[unit_of_leg] & ((kind == OPTION) | (kind == FUTURE))
        held = book.leg_contracts.astype(precision)
        place = account[wide], book.leg_instrument[wide]
        self.expiring = csr_array((held[wide], place), shape=(num_accounts, num_instruments))
        self.all = csr_array(
            (held, (unit_of_leg, book.leg_instrument)),
            shape=(len(book.unit_coin), num_instruments),
        )

    def scenarios(self, table: np.ndarray) -> np.ndarray:
        """USD of the expiring legs of units with options [account, scenario]."""
        return self.expiring @ table

    def features(self, table: np.ndarray) -> np.ndarray:
        """Sums of the linear columns [unit, feature]."""
        return self.all @ table
