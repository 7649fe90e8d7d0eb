"""Runs every target under the coverage-guided fuzzer for its share of the time (`scripts/fuzz`).

The reported figures are libFuzzer's own. A target that ends for any other reason than that its time is up has failed,
and the input that caused it is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.seeds import seeds

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".cache" / "venv-fuzz" / "bin" / "python"
"""The environment with atheris, which `scripts/fuzz` and `scripts/test` make from requirements/fuzz.txt."""

LONGEST_INPUT = 8192
SLOWEST_INPUT = 30
"""Seconds within which a busy machine must process any input; the slowest known takes a twentieth of a second."""
MOST_MEMORY = 1024
"""MiB that the process may hold after millions of inputs."""
_STATISTIC = re.compile(r"stat::(\w+): +(\d+)")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a target. `crash` is the file with the input that broke it, or None."""

    target: str
    executions: int
    peak_mib: int
    failed: bool
    crash: Path | None
    output: str


def fuzz(target: str, folder: Path, *, seconds: int, seed: int = 1) -> Result:
    """Run a target for `seconds`; its corpus is kept in `folder` and grows."""
    corpus, crashes = folder / target, folder / "crashes"
    for made in (corpus, crashes):
        made.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(target)):
        (corpus / f"seed-{number:03}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={SLOWEST_INPUT}",
        f"-rss_limit_mb={MOST_MEMORY}",
        f"-seed={seed}",
        f"-artifact_prefix={crashes}/{target}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    before = set(crashes.glob(f"{target}-*"))
    done = subprocess.run(
        [PYTHON, "-m", "tests.fuzz.coverage_guided", target, *options, corpus],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds + 240,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    statistics = {name: int(value) for name, value in _STATISTIC.findall(output)}
    found = sorted(set(crashes.glob(f"{target}-*")) - before)
    return Result(
        target,
        statistics.get("number_of_executed_units", 0),
        statistics.get("peak_rss_mb", 0),
        bool(done.returncode or found),
        found[0] if found else None,
        output,
    )


def run(targets: Iterable[str], folder: Path, *, seconds: int, jobs: int, seed: int = 1) -> list[Result]:
    """Run all targets, `jobs` at a time, for `seconds` each."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda target: fuzz(target, folder, seconds=seconds, seed=seed), targets))


def main() -> int:
    """`scripts/fuzz`: print a table of the results; return 1 if a target broke."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz the parsers, guided by coverage.")
    parser.add_argument("minutes", nargs="?", type=float, default=10, help="in all (default: 10)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="0, the default, chooses a new one each time")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    targets = chosen.targets or list(TARGETS)
    jobs = min(os.cpu_count() or 1, len(targets))
    seconds = max(1, round(chosen.minutes * 60 * jobs / len(targets)))
    results = run(targets, ROOT / ".cache" / "fuzz", seconds=seconds, jobs=jobs, seed=chosen.seed)
    for result in results:
        print(f"{result.target:15} {result.executions:12,} inputs, peak {result.peak_mib} MiB", end="")
        print(f": BROKEN by {result.crash or 'the error shown below'}" if result.failed else "")
    print(f"{'in all':15} {sum(result.executions for result in results):12,} inputs")
    for result in results:
        if result.failed:
            print(f"\n{result.target}:\n{result.output[-6000:]}")
            if result.crash:
                print(f"Copy it to tests/fuzz/regressions/{result.target}/ under a name that describes it.")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
