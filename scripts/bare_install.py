"""Does the command work with the runtime libraries alone? Development tools cannot be imported."""

import importlib
import pkgutil
import re
import runpy
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType

from packaging.requirements import Requirement


def runtime_distributions(root: str) -> set[str]:
    """Names of a distribution and of everything that it requires, directly or not."""
    found: set[str] = set()
    todo = [root]
    while todo:
        name = normal(todo.pop())
        if name in found:
            continue
        found.add(name)
        required = [Requirement(text) for text in metadata.requires(name) or ()]
        todo += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def normal(name: str) -> str:
    """A distribution's name as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def development_modules() -> set[str]:
    """Top-level modules that no runtime distribution brings."""
    runtime = runtime_distributions("pm-stress")
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if not runtime & set(map(normal, names))}


class Refuse:
    """Import hook: the given top-level modules are not there."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"{name} is no runtime library", name=name)
        return None


def main() -> None:
    refused = development_modules()
    sys.meta_path.insert(0, Refuse(refused))
    import backtest.errors

    extra: list[str] = []
    for module in pkgutil.walk_packages(backtest.__path__, "backtest."):
        if module.name != "backtest.__main__":
            try:
                importlib.import_module(module.name)
            except backtest.errors.ConfigError as error:
                # What needs an extra says which.
                if 'pip install "pm-stress[' not in str(error):
                    raise
                extra.append(module.name)
    print(f"need an extra: {', '.join(extra)}")
    print(f"every module imports without {', '.join(sorted(refused & {'numba', 'pytest'}))} ...")
    sys.argv = ["pmstress", "--help"]
    runpy.run_module("backtest", run_name="__main__")


if __name__ == "__main__":
    main()
