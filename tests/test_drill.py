"""The outage drill of tests/benchmarks, with fewer messages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_an_outage_loses_and_doubles_nothing() -> None:
    """One of two providers drops connections, dies and comes back; all is as reported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.benchmarks.drill", "300"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.count("lost 0, doubled 0, false reports 0") == 2
    one_by_one = re.findall(r"'uncertain': (\d+)", done.stdout)[0]
    assert 2 <= int(one_by_one) < 50  # the connections dropped, and those open at the end
