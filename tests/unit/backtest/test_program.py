"""What a process says of itself."""

import subprocess
import sys

import numpy as np

from backtest.paths import PROJECT_ROOT
from backtest.program import peak_memory_mb


HELD_MB = 1_500


def test_peak_memory_is_not_that_of_who_started_the_program():
    held = np.ones(HELD_MB << 17)  # 8 bytes each
    assert peak_memory_mb() > HELD_MB
    asks = "from backtest.program import peak_memory_mb; print(peak_memory_mb())"
    command = [sys.executable, "-c", asks]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert held[-1] == 1.0
    assert 50 < int(done.stdout) < HELD_MB
