"""Where the project's optional real market history lies."""

import os
from pathlib import Path


PROJECT_ROOT = Path(__file__).resolve().parent.parent


def real_data_root() -> Path | None:
    """Folder of real market history (``PMSTRESS_DATA`` or ``../shared/data``), None if absent."""
    named = os.environ.get("PMSTRESS_DATA")
    root = Path(named) if named else PROJECT_ROOT.parent / "shared" / "data"
    return root if root.is_dir() else None
