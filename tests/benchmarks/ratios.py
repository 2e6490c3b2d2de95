"""Compare ways of doing one thing, in turn, and print the medians of their ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Work = Callable[[], object]


def cpu_of(work: Work, times: int) -> float:
    """Return the CPU seconds (user and system) that some repetitions take."""
    started = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - started


def compare(
    title: str,
    contestants: Mapping[str, Work],
    *,
    base: str,
    times: int = 200,
    rounds: int = 15,
    goals: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Run the contestants in turn; return and print each one's median ratio to ``base``."""
    for work in contestants.values():
        work()
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        gc.collect()
        for name, work in contestants.items():
            samples[name].append(cpu_of(work, times))
    medians = {
        name: statistics.median(
            mine / theirs for mine, theirs in zip(taken, samples[base], strict=True)
        )
        for name, taken in samples.items()
    }
    unit = statistics.median(samples[base]) / times * 1e6
    print(f"\n{title}  (1 = {base}, {unit:.0f} µs CPU)")
    for name, ratio in sorted(medians.items(), key=lambda item: item[1]):
        goal = (goals or {}).get(name)
        print(f"  {ratio:7.3f}  {name}" + (f"   (goal: at most {goal})" if goal else ""))
    return medians
