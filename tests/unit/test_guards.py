"""The environment is the one that the project was made for."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import jax
import jaxlib
import pytest
from packaging.requirements import Requirement

import backtest
import kernels
from backtest.paths import PROJECT_ROOT


PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}


def test_kernels_is_this_projects_package() -> None:
    assert Path(kernels.__file__).is_relative_to(PROJECT_ROOT)


def test_no_distribution_called_kernels_is_installed() -> None:
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("kernels")


@pytest.mark.parametrize("module", [jax, jaxlib])
def test_jax_is_an_allowed_version(module: object) -> None:
    name, version = module.__name__, module.__version__  # pyright: ignore[reportAttributeAccessIssue] (modules)
    assert PINS[name].specifier.contains(version)


@pytest.mark.parametrize("name", ["jax", "jaxlib"])
def test_the_version_with_wrong_numbers_is_refused(name: str) -> None:
    assert not PINS[name].specifier.contains("0.10.2")


def test_the_version_is_the_projects() -> None:
    assert backtest.__version__ == PROJECT["version"]


def test_a_foreign_kernels_package_is_named_as_the_cause(tmp_path: Path) -> None:
    foreign = tmp_path / "kernels"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("def get_kernel(): ...\n")
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PROJECT_ROOT)!r}]; import backtest"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ImportError: 'kernels' is not this project's package" in done.stderr
    assert "Use an environment without it" in done.stderr
