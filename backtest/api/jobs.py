"""Whole jobs from Python: runs and calibrations. One that was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from backtest import run as runs
from backtest.api.results import RunResults
from backtest.calibration import calibrate as search
from backtest.calibration.config import CalibrationConfig, load_calibration
from backtest.calibration.figures import figures_of
from backtest.calibration.saved import Saved
from backtest.config import RunConfig, load_config
from backtest.errors import ConfigError


Say = Callable[[str], None]


def _silent(text: str) -> None:
    del text


def run_backtest(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    fresh: bool = False,
    say: Say = _silent,
) -> RunResults:
    """Replay history under every parameter set and save the results; `pmstress run`.

    The dataset and the accounts are made first where they are absent. What an interrupted run
    finished is reused.

    Args:
        config: a run's configuration, or its file.
        out: results folder.
        workers: buckets at once; as configured if None. Above 1, a program of yours needs
            ``if __name__ == "__main__":``.
        scheduler: address of a Dask scheduler whose workers see the same folders.
        fresh: remove what ``out`` holds first.
        say: receives a line at each stage, for instance ``print``.

    Raises:
        ConfigError: the configuration is wrong, or ``out`` holds another run.
        DataError: the data cannot be replayed.
        RunError: some cells failed; what is finished stays.

    Example:
        >>> run_backtest("configs/smoke.toml", "build/runs/smoke")  # doctest: +SKIP
    """
    chosen = config if isinstance(config, RunConfig) else load_config(config)
    runs.run(chosen, Path(out), workers=workers, scheduler=scheduler, fresh=fresh, say=say)
    return RunResults(out)


class CalibrationResults(Saved):
    """Saved results of a calibration.

    ``summary`` says what was chosen; ``tables`` are pandas frames by name (``candidates``,
    ``walk_forward`` and others).
    """

    @property
    def verification(self) -> RunResults:
        """The run that replays the choice jointly, each of its moves alone, and today's set."""
        return RunResults(self.bundle.path)

    @property
    def figure_names(self) -> list[str]:
        """Names that ``figure`` takes."""
        return list(figures_of(self))

    def figure(self, name: str) -> Figure:
        """A figure of the calibration's page.

        Raises:
            ConfigError: there is none of that name; lists those there are.
        """
        drawers = figures_of(self)
        if name not in drawers:
            raise ConfigError(f"no figure '{name}'; allowed: {', '.join(drawers)}")
        return drawers[name](self)


def calibrate(
    config: CalibrationConfig | str | Path,
    out: str | Path,
    *,
    base: RunConfig | None = None,
    workers: int | None = None,
    fresh: bool = False,
    say: Say = _silent,
) -> CalibrationResults:
    """Search parameter levels, choose on bounds, try out of sample; `pmstress calibrate`.

    Args:
        config: a calibration's configuration, or its file.
        out: folder of the calibration.
        base: the run whose data, accounts and replay are used; None = the one that the file names.
        workers: buckets at once; as the base run says if None.
        fresh: empty ``out`` first.
        say: receives a line at each stage.

    Raises:
        ConfigError: a bad configuration, no base run, or a folder of another calibration.
        DataError: the data cannot be replayed.
        RunError: cells failed; what is finished stays.
    """
    if isinstance(config, CalibrationConfig):
        if base is None:
            raise ConfigError("calibrate: 'base' is missing; needed where 'config' is no file")
        settings, chosen = config, base
    else:
        settings, named = load_calibration(config)
        chosen = named if base is None else base
    search.calibrate(settings, chosen, Path(out), workers=workers, fresh=fresh, say=say)
    return CalibrationResults(out)
