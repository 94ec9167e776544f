"""Whose results a folder holds; one marker file says it."""

import json
import shutil
from pathlib import Path
from typing import Any

from backtest.durable import is_left_over, write_json
from backtest.errors import ConfigError


MARKER = "run.json"
"""File that says that a folder holds results, and of what run."""


def claim(out: Path, identity: dict[str, Any], fresh: bool) -> None:
    """Make the results folder ours, or refuse the folder of another run.

    Args:
        out: the folder.
        identity: what decides on results, by name, with their hash as ``run_id``.
        fresh: empty a results folder of whatever run first.

    Raises:
        ConfigError: the folder holds another run, or something that is no results folder.
    """
    marker = out / MARKER
    content = [path for path in out.iterdir() if not is_left_over(path)]
    if fresh and content:
        if not marker.is_file():
            raise ConfigError(f"{out}: is no results folder, so --fresh does not remove it")
        _empty(out)
        content = []
    if marker.is_file():
        found = _identity_in(marker)
        if found["run_id"] != identity["run_id"]:
            if [path.name for path in content] == [MARKER]:
                # A run that ended before its first result: nothing here to mix with.
                write_json(marker, identity)
                return
            changed = [k for k in identity if k != "run_id" and found.get(k) != identity[k]]
            raise ConfigError(
                f"{out}: holds another run (different: {', '.join(changed)}); "
                "choose another --out or replace it with --fresh"
            )
        return
    if content:
        raise ConfigError(f"{out}: is not empty and no results folder; choose another --out")
    write_json(marker, identity)


def _identity_in(marker: Path) -> dict[str, Any]:
    try:
        return {"run_id": None} | dict(json.loads(marker.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{marker}: is damaged ({error}); replace the run with --fresh"
        ) from error


def _empty(out: Path) -> None:
    """Remove all that a results folder holds; last the file that says it is one."""
    for path in sorted(out.iterdir(), key=lambda path: path.name == MARKER):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
