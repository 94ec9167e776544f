"""The benchmark: one book, every way of computing its margins, checked, then timed in turns."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backtest.bench import checks, machine
from backtest.bench.book import World, reference_book, reference_world
from backtest.bench.flat import FlatBook, flat_book, flat_contracts, flat_market, flat_rules
from backtest.bench.laps import Lap, laps
from backtest.bench.ours import Bucket, Ours, buckets
from backtest.bench.peers.numba_margin import NumbaPeer
from backtest.bench.results import Findings
from backtest.bench.workers import Workers, started
from backtest.engine import use_compilation_cache
from backtest.okx_records import okx_parameters
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.window_records import WindowTables


PARAMETERS = PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
PRECISIONS = ("float64", "float32")
REPRICED_ACCOUNTS = 8_192
"""Accounts of the peer that reprices everything: its rate does not depend on their number."""
REFERENCE_PICKS, SMALL_PICKS = 200, 40
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Fields:
        accounts, repeats: size of the book, laps of each side.
        num_times: times of the window.
        only: ids of targets.
        small: everything small, for a check of the benchmark itself.
    """

    accounts: int
    repeats: int
    only: tuple[str, ...]
    num_times: int = 24
    small: bool = False


class Bench:
    """Book, peers and engine of one run of the benchmark."""

    def __init__(self, settings: Settings, say: Say) -> None:
        use_compilation_cache()
        self.settings, self.say = settings, say
        self.threads = machine.num_cores()
        self.world: World = reference_world()
        self.window = self.world.window(settings.num_times)
        say(f"drawing {settings.accounts:,} accounts")
        self.snapshot = reference_book(self.world, settings.accounts)
        self.numbers = load_parameter_set(PARAMETERS).numbers()
        self.params = okx_parameters(self.numbers, self.world.currencies)
        self.flat = flat_contracts(self.world), flat_market(self.window), flat_rules(self.params)
        self.flat_book: FlatBook = flat_book(self.snapshot, self.world)
        self.buckets: list[Bucket] = buckets(self.snapshot, self.world)
        self.precisions = PRECISIONS[:1] if settings.small else PRECISIONS
        self.ours = {p: Ours(self.world, self.window, p) for p in self.precisions}
        self.numba = {p: NumbaPeer(*self.flat, p) for p in self.precisions}
        self.findings = Findings(machine.describe(), self._described())

    @property
    def account_times(self) -> float:
        """Margins of the whole book over the window."""
        return float(self.settings.accounts * self.settings.num_times)

    @property
    def repriced_accounts(self) -> int:
        """Accounts that the repricing peer takes."""
        return min(REPRICED_ACCOUNTS, self.settings.accounts)

    @cached_property
    def priced(self) -> dict[str, WindowTables]:
        """Our tables by precision."""
        return {p: ours.price([self.params])[0] for p, ours in self.ours.items()}

    @cached_property
    def margin_laps(self) -> dict[str, Lap]:
        """Full margin of the book in every way, checked first, then timed in turns."""
        self._check_margins()
        self.say("timing the full margin")
        with ThreadPoolExecutor(self.threads) as pool, self.workers() as workers:
            workers.every("price", self.params)
            calls, work = self._margin_calls(pool, workers)
            found = laps(calls, self.settings.repeats, work)
        for name in (*(f"ours {p}" for p in self.precisions), *self._shared_names()):
            found[name] = found[name].plus(found[f"{name}, pricing"])
        self.findings.laps |= found
        return found

    def workers(self) -> AbstractContextManager[Workers]:
        """Processes that replay the book, one for each core."""
        given = self.world, self.window, self.precisions, self.buckets
        return started(self.threads, *given)

    def _shared_names(self) -> list[str]:
        return [f"numba shared table {p}" for p in self.precisions]

    def _margin_calls(
        self, pool: Executor, workers: Workers
    ) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
        calls: dict[str, Callable[[], Any]] = {}
        work: dict[str, float] = {}
        for p in self.precisions:
            ours, peer = self.ours[p], self.numba[p]
            shared = f"numba shared table {p}"
            calls[f"ours {p}"] = lambda p=p: workers.every("replay", p)
            calls[f"ours {p}, pricing"] = lambda o=ours: o.price([self.params])
            calls[shared] = lambda n=peer: self.peer_margins(n, pool)
            calls[f"{shared}, pricing"] = lambda n=peer: self.peer_prices(n, pool)
            work |= {f"ours {p}": self.account_times, shared: self.account_times}
        repriced = "numba repricing float64"
        calls[repriced] = lambda: self._repriced(pool)
        work[repriced] = float(self.repriced_accounts * self.settings.num_times)
        return calls, work

    def peer_prices(self, peer: NumbaPeer, pool: Executor) -> None:
        """The shared table of the peer over the window."""
        list(pool.map(peer.price, range(self.settings.num_times)))

    def peer_margins(self, peer: NumbaPeer, pool: Executor) -> None:
        """Margins of the book by the peer, a bucket at a time in each thread."""

        def one(bucket: Bucket) -> None:
            peer.margins(self.flat_book, bucket.start, bucket.stop)

        list(pool.map(one, self.buckets))

    def _repriced(self, pool: Executor) -> None:
        edges = np.linspace(0, self.repriced_accounts, 2 * self.threads + 1).astype(int)

        def one(part: int) -> None:
            peer = self.numba["float64"]
            peer.margins_repriced(self.flat_book, int(edges[part]), int(edges[part + 1]))

        list(pool.map(one, range(2 * self.threads)))

    def _check_margins(self) -> None:
        """Peers against the reference on a sample, the engine against them on every account."""
        peer = self.numba["float64"]
        for p in self.precisions:
            with ThreadPoolExecutor(self.threads) as pool:
                self.peer_prices(self.numba[p], pool)
        self._check_reference(peer)
        self.say("comparing all accounts with the peer that shares the table")
        for p in self.precisions:
            worst, count = 0.0, 0
            for bucket in self.buckets:
                expected = peer.margins(self.flat_book, bucket.start, bucket.stop)
                for batch in bucket.batches:
                    found = checks.of_engine(self.ours[p].margins(batch, self.priced[p]))
                    theirs = checks.of_peer(expected[:, batch.accounts])
                    worst = max(worst, checks.largest_difference(found, theirs))
                    count += found.level.size
            # Half of the digits are left of float32 sums.
            tolerance = checks.RELATIVE if p == "float64" else 1e-4
            self.findings.checks.append(
                checks.agreed(f"engine {p} and numba, all accounts", count * 10, worst, tolerance)
            )

    def _check_reference(self, peer: NumbaPeer) -> None:
        self.say("comparing peers with the float64 reference")
        count = SMALL_PICKS if self.settings.small else REFERENCE_PICKS
        count = min(count, self.repriced_accounts)
        accounts = np.linspace(0, self.repriced_accounts - 1, count).astype(int).tolist()
        picks = [(k % self.settings.num_times, account) for k, account in enumerate(accounts)]
        inputs = self.world, self.snapshot, self.window, self.numbers
        expected = checks.reference_margins(*inputs, picks)
        for name, call in (
            ("numba shared table", peer.margins),
            ("numba repricing", peer.margins_repriced),
        ):
            rows = np.stack([call(self.flat_book, a, a + 1)[t, 0].copy() for t, a in picks])
            worst = checks.largest_difference(checks.of_peer(rows), expected)
            self.findings.checks.append(
                checks.agreed(f"{name} and reference, {count} accounts", count * 10, worst)
            )

    def _described(self) -> dict[str, Any]:
        with_options = np.unique(
            self.snapshot.leg_account[self.world.terms.is_option[self.snapshot.leg_instrument]]
        )
        return {
            "accounts": self.settings.accounts,
            "with_options": len(with_options),
            "legs": len(self.snapshot.leg_account),
            "instruments": len(self.world.instruments),
            "times": self.settings.num_times,
            "repeats": self.settings.repeats,
            "threads": self.threads,
            "parameter_set": PARAMETERS.stem,
            "size": "small" if self.settings.small else "reference",
        }
