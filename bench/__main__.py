"""The command line of the benchmark: selects what to run and how often, and what is done with the results."""

from __future__ import annotations

import fnmatch
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from bench import beside, certificates, cost, crowded, proposals, receivers, report, steps, targets, versions, workloads
from bench.errors import BenchError
from bench.scratch import Scratch
from bench.turns import Step, Terms, measure, probe_tls

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCUMENT = HERE.parent / "docs" / "performance.md"
FILE = click.Path(dir_okay=False, path_type=Path)
QUICK_TURNS, QUICK_SCALE = 2, 0.1
Found = TypeVar("Found")


def chosen(patterns: str, names: Iterable[str], what: str) -> list[str]:
    """Return the names that match any of the comma-separated patterns, or all names. Raises click.BadParameter."""
    known = list(names)
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise click.BadParameter(f"no {what} is called {pattern!r}; there are {', '.join(known)}")
    return [name for name in known if not wanted or any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]


def file_system(folder: Path) -> str:
    """Return the type of the file system that contains the folder."""
    best, found = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, found = point, kind
    return found


def machine(scratch: Path) -> dict[str, str]:
    """Describe what the results depend on besides the receivers."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpu if "model name" in line), platform.machine())
    return {
        "cpu": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "kernel": platform.release(),
        "file system": file_system(scratch),
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",  # if the machine is busy, the results are useless
    }


def make_plan(only: str, peers: str) -> list[Step]:
    """Combine the chosen workloads with the chosen receivers."""
    names = chosen(peers, receivers.BY_NAME, "receiver")
    steps = []
    for name in chosen(only, workloads.BY_NAME, "workload"):
        workload = workloads.BY_NAME[name]
        steps.append(Step(workload, tuple(r for r in workload.receivers if r.name in names)))
    return [step for step in steps if step.receivers]


def describe(plan: list[Step]) -> dict[str, dict[str, str]]:
    """Return title and version of each receiver in the plan; the version is empty if it isn't installed."""
    planned = dict.fromkeys(receiver for step in plan for receiver in step.receivers)
    known = [receiver for receiver in receivers.BY_NAME.values() if receiver in planned]
    concerned = dict.fromkeys((*known, *planned))
    return {r.name: {"title": r.title, "version": "" if r.missing() else r.version()} for r in concerned}


def run(plan: list[Step], turns: int, scale: float, scratch: Path, against: str = "") -> report.Results:
    """Carry out the plan; with `against`, for dicomd and that other version of it.

    If something fails, the results hold what was measured before and the failure.
    """
    place = Scratch(scratch)
    try:
        if against:
            plan = beside.pairs(plan, versions.find(against, place.path))
        results = report.Results(
            started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=machine(scratch),
            receivers=describe(plan),
            turns=turns,
            scale=scale,
        )
        try:
            made, no_tls = None, ""
            if any(step.workload.tls for step in plan):
                made = certificates.make(place.path / "certificates")
                no_tls = probe_tls(place, made)
            terms = Terms(turns, scale, place, None if no_tls else made, no_tls)
            measure(plan, terms, results.outcomes, lambda line: click.echo(line, err=True))
        except (BenchError, KeyboardInterrupt) as error:
            results.trouble = str(error) or "interrupted"
        return results
    finally:
        place.remove()


def count_steps(turns: int, scratch: Path, against: str) -> steps.Found:
    """Count what an instance costs this version and, with `against`, that one. Raises BenchError."""
    place = Scratch(scratch)
    try:
        compared = [versions.THIS, *([versions.find(against, place.path)] if against else [])]
        return steps.run(compared, turns, place, partial(click.echo, err=True))
    finally:
        place.remove()


def save(results: report.Results, output: Path | None) -> Path:
    """Write the JSON, by default to a new file in bench/results/."""
    name = results.started.replace(":", "").replace(" UTC", "").replace(" ", "-")
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.to_json(results))
    return path


def show_names() -> None:
    """Print the names that --only and --peers accept."""
    for workload in workloads.WORKLOADS:
        click.echo(f"{workload.name:<18} {workload.title}")
    click.echo()
    for receiver in receivers.BY_NAME.values():
        click.echo(f"{receiver.name:<18} {receiver.missing() or f'{receiver.title} {receiver.version()}'}")


def show(found: Found, to_json: Callable[[Found], str], page: Callable[[Found], str], output: Path | None) -> None:
    """Print what was found, and also write it to `output` if that is given."""
    if output:
        output.write_text(to_json(found))
    click.echo(page(found))


@click.command()
@click.option("--only", default="", metavar="NAMES", help="Only these workloads: names or patterns, comma-separated.")
@click.option("--peers", default="", metavar="NAMES", help="Only these receivers, such as dicomd-none,dcmtk.")
@click.option("--turns", type=click.IntRange(1), default=None, help="Number of turns, by default 5.")
@click.option("--quick", is_flag=True, help=f"{QUICK_TURNS} turns of a tenth of the work: a smoke test.")
@click.option("--must-show", is_flag=True, help="Only what is needed to judge dicomd's targets.")
@click.option("--strict", is_flag=True, help="Exit 1 unless all measured targets, at least one, are met.")
@click.option("--write-docs", is_flag=True, help="Write the tables into docs/performance.md.")
@click.option("--from", "source", type=FILE, help="Run nothing; show the results in this JSON.")
@click.option("--output", type=FILE, help="Write the JSON here (default: a new file in bench/results/).")
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/var/tmp",  # noqa: S108 - a fresh private folder is made in it; unlike /tmp it is on a disk
    help="Folder that receivers store in, on a real disk (default /var/tmp).",
)
@click.option("--cost", "costs", is_flag=True, help="Only the CPU time that log lines and metrics cost dicomd.")
@click.option("--crowd", "besieged", is_flag=True, help="Only what a hostile crowd costs a normal sender.")
@click.option(
    "--proposals",
    "proposed",
    is_flag=True,
    help="Only what the most expensive association requests cost a sender.",
)
@click.option("--steps", "stepped", is_flag=True, help="Only the system calls and bytecodes that an instance costs.")
@click.option(
    "--against",
    default="",
    metavar="VERSION",
    help="Compare dicomd with another version of itself only: a folder that contains it, or a commit.",
)
@click.option("--list", "names", is_flag=True, help="List workloads and receivers.")
def main(
    only: str,
    peers: str,
    turns: int | None,
    quick: bool,
    must_show: bool,
    strict: bool,
    write_docs: bool,
    source: Path | None,
    output: Path | None,
    scratch: Path,
    costs: bool,
    besieged: bool,
    proposed: bool,
    stepped: bool,
    against: str,
    names: bool,
) -> None:
    """Compare dicomd with pynetdicom's and DCMTK's storescp and with Orthanc, and print medians and ratios."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the receivers, as on Ctrl-C
    if names:
        show_names()
        return
    if against and (costs or besieged or proposed or strict or write_docs or source):
        raise click.UsageError("--against can be combined with a selection of workloads, --must-show or --steps")
    try:
        if stepped:
            show(count_steps(turns or (1 if quick else 3), scratch, against), steps.to_json, steps.page, output)
            return
        if costs or besieged or proposed:
            count = turns or (QUICK_TURNS if quick else 5)
            say = partial(click.echo, err=True)
            if costs:
                show(cost.run(count, QUICK_SCALE if quick else 1.0, scratch, say), cost.to_json, cost.page, output)
            elif proposed:
                show(
                    proposals.run(count, 0.3 if quick else 1.0, scratch, say), proposals.to_json, proposals.page, output
                )
            else:
                sieges = crowded.run(("fsync", "none"), count, 0.3 if quick else 1.0, scratch, say)
                show(sieges, crowded.to_json, crowded.page, output)
            return
        if source:
            results = report.from_json(source.read_text())
        else:
            plan = (beside.must_show() if against else targets.plan()) if must_show else make_plan(only, peers)
            scale = QUICK_SCALE if quick else 1.0
            results = run(plan, turns or (QUICK_TURNS if quick else 5), scale, scratch, against)
            click.echo(f"raw results: {save(results, output)}", err=True)
        attainments = targets.judge(results.outcomes)
        if any(outcome.measured or outcome.not_run for outcome in results.outcomes.values()):
            show_page = beside.page if beside.has_pairs(results) else report.target_page if must_show else report.page
            click.echo("\n" + show_page(results))
        if results.trouble:
            raise click.ClickException(results.trouble)
        if write_docs:
            report.write_block(DOCUMENT, report.page(results))
            click.echo(f"\nwritten into {DOCUMENT}", err=True)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    words = {attainment.word for attainment in attainments}
    if strict and ("not met" in words or "met" not in words):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
