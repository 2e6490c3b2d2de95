"""Importing the package and making the first app, against importing Flask.

``python -m tests.benchmarks.bench_import``; the goal is at most 1.10.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

PROBE = "import time; t = time.process_time(); {code}; print(time.process_time() - t)"
FLASK = "import flask"
FLASK_APP = "import flask; flask.Flask('x')"
FIRST_APP = (
    "import flask, flask_mailesp; app = flask.Flask('x'); "
    "app.config.update(MAILESP_ESP='postmark', MAILESP_POSTMARK_SERVER_TOKEN='t'); "
    "flask_mailesp.MailESP(app)"
)
EAGER = FIRST_APP + "; import requests, cryptography.hazmat.primitives.serialization"


def seconds(code: str) -> float:
    """Return the CPU seconds of some code in a new interpreter.

    Bytecode is kept, as it is wherever the package is installed.
    """
    probe = [sys.executable, "-c", PROBE.format(code=code)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(probe, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    ratios: dict[str, list[float]] = {"app": [], "first app": [], "eager": []}
    base = []
    seconds(EAGER)
    for _ in range(21):
        unit = seconds(FLASK)
        base.append(unit)
        ratios["app"].append(seconds(FLASK_APP) / unit)
        ratios["first app"].append(seconds(FIRST_APP) / unit)
        ratios["eager"].append(seconds(EAGER) / unit)
    print(f"\nImport  (1 = import flask, {statistics.median(base) * 1000:.0f} ms CPU)")
    print(f"  {statistics.median(ratios['app']):7.3f}  Flask with an app")
    print(f"  {statistics.median(ratios['first app']):7.3f}  ours with an app  (goal: 1.10)")
    print(f"  {statistics.median(ratios['eager']):7.3f}  were requests and cryptography imported")


if __name__ == "__main__":
    main()
