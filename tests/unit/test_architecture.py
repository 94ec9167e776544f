"""The layers, kept by reading the imports: nothing below knows what is above it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backtest.paths import PROJECT_ROOT


LAYERS = (
    "backtest.cli",
    "backtest.api",
    "backtest.calibration",
    "backtest.run",
    "backtest.cluster",
    "backtest.replay",
    "backtest.engine",
    "backtest.batching",
    "kernels",
)
"""From the top: a layer may use what stands after it, never what stands before it."""

MAY_IMPORT = {
    "kernels": {"kernels", "jax", "equinox", "jaxtyping", "numpy"},
    "backtest.reference": {"backtest.reference", "numpy", "scipy.special"},
    "backtest.report": {
        *("backtest.report", "backtest.errors", "jinja2", "markupsafe", "matplotlib"),
        *("numpy", "pandas", "pyarrow", "scipy"),
        *("backtest.statistics.attribution", "backtest.statistics.frequency_curve"),
        "backtest.statistics.procyclicality",
    },
    "backtest.statistics": {
        *("backtest.statistics", "backtest.errors", "jaxtyping"),
        *("numpy", "pandas", "scipy", "arch"),
    },
    "backtest.errors": set[str](),
}
"""All that a package may import besides the standard library."""

ONLY_ENGINE = {"jax.jit", "equinox.filter_jit", "jax.device_put"}
"""Placing on devices is the engine's alone; its programs, its scores and the liquidator compile."""

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
"""Without the signature: that of a command is the list of its options."""


def name_of(path: Path) -> str:
    """Dotted name of a module file."""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    name_of(path): path
    for package in ("backtest", "kernels")
    for path in sorted((PROJECT_ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def statements(module: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run; those for type checkers only do not count."""
    todo: list[ast.AST] = [TREES[module]]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        todo += ast.iter_child_nodes(node)


def imports(module: str) -> set[str]:
    """Full names of all that a module imports, submodules where they are meant."""
    found: set[str] = set()
    for node in statements(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            is_package = FILES[module].name == "__init__.py"
            above = module if is_package else module.rpartition(".")[0]
            base = f"{above}.{base}".rstrip(".")
        for alias in node.names:
            full = f"{base}.{alias.name}"
            found.add(full if full in FILES else base)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def members(package: str) -> list[str]:
    return [name for name in FILES if within(name, package)]


def reach(package: str) -> dict[str, str]:
    """Modules of ours that a package leads to, through however many imports, and from where."""
    found: dict[str, str] = {}
    todo = members(package)
    while todo:
        module = todo.pop()
        for name in sorted(imports(module) & FILES.keys()):
            if name not in found:
                found[name] = module
                todo.append(name)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_never_reaches_a_layer_above_it(layer: str) -> None:
    assert members(layer), f"{layer} is no module any more"
    above = LAYERS[: LAYERS.index(layer)]
    wrong = {
        name: user for name, user in reach(layer).items() if any(within(name, a) for a in above)
    }
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    assert members(package)
    wrong = [
        f"{module} imports {name}"
        for module in members(package)
        for name in imports(module)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(within(name, allowed) for allowed in MAY_IMPORT[package])
    ]
    assert not wrong


def test_only_the_engine_compiles_and_places() -> None:
    aliases = {"eqx": "equinox"}
    users = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if f"{aliases.get(node.value.id, node.value.id)}.{node.attr}" in ONLY_ENGINE
    }
    assert users == {"backtest.engine", "backtest.apart", "backtest.kept_programs"}
    programs = {m for m in TREES if "backtest.kept_programs" in imports(m)}
    others = {"backtest.engine", "backtest.bench.profile"}
    # gradients: a derivative goes through whole kernels, so no program of the engine holds it
    assert programs - others == {
        "backtest.calibration.gradients",
        "backtest.liquidator",
        "backtest.price_programs",
        "backtest.scores",
        "backtest.tile_programs",
    }


def test_files_and_functions_stay_small() -> None:
    long = [f"{m}: {n} lines" for m, p in FILES.items() if (n := lines(p)) > MAX_FILE_LINES]
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
                if size > MAX_FUNCTION_LINES:
                    long.append(f"{module}.{node.name}: {size} lines")
    assert not long


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
