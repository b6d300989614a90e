"""``harness run | list | bisect | report | selftest | noise | store | serve | env``: a thin front.

Exit codes: 0 passed, 1 findings, 2 usage, 3 internal, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import __version__
from harness.errors import HarnessError
from harness.options import OPTIONS, Options
from harness.serving import commands

if TYPE_CHECKING:
    from harness.live import Plan
    from harness.plan import PlannedCell
    from harness.telling import Reporter

INTERRUPTED = 130


class _Group(click.Group):
    """Tells every `HarnessError` as one message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.echo(f"harness: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def main() -> None:
    """Does a saved, converted, served detector still answer as the original did, and how fast?"""


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        kind: dict[str, Any] = {"list": {"multiple": True}, "flag": {"is_flag": True}, "one": {}}[option.kind]
        if option.metavar:
            kind["metavar"] = option.metavar
        command = click.option(f"--{option.name}", option.field, help=option.help, **kind)(command)
    return command


@main.command()
@_run_options
@click.option("--dry-run", is_flag=True, help="Print the plan and its estimated minutes; run nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; the verdict alone.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as JSON on standard output.")
def run(dry_run: bool, quiet: bool, as_json: bool, **raw: Any) -> None:
    """Check models on backends; writes run.jsonl and page.html. Exits 0 when nothing failed, 1 on findings."""
    from harness.live import Plan

    plan = Plan(Options.of(raw))
    if dry_run:
        click.echo(_plan_text(plan, as_json))
        return
    from harness.telling import Reporter

    reporter = Reporter(shlex.join(["harness", *sys.argv[1:]]), quiet or as_json)
    code = _run_suites(plan, reporter)
    if reporter.run is None:
        sys.exit(code)
    _tell(reporter.run.folder, quiet, as_json)
    for sentence in reporter.run.unmet_requirements():
        click.echo(sentence, err=True)
    sys.exit(code)


def _run_suites(plan: Plan, reporter: Reporter) -> int:
    """Run the suites under pytest, undisturbed by the configuration and plugins of the folder we are in."""
    import pytest

    import harness.suites
    from harness import plugin

    class Front:
        def pytest_configure(self, config: pytest.Config) -> None:
            config.stash[plugin.PLAN] = plan
            config.stash[plugin.REPORTER] = reporter

        def pytest_exception_interact(self, report: pytest.TestReport | pytest.CollectReport) -> None:
            if isinstance(report, pytest.CollectReport):
                click.echo(report.longreprtext, err=True)

        def pytest_internalerror(self, excrepr: object) -> None:
            click.echo(str(excrepr), err=True)

    suites = Path(next(iter(harness.suites.__path__)))
    folders = [str(folder) for folder in sorted(suites.iterdir()) if (folder / "__init__.py").is_file() and folder.name != "meta"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(suites)]
    signal.signal(signal.SIGTERM, _interrupt_once)
    try:
        code = pytest.main([*quiet, "-p", "harness.plugin", *folders], plugins=[Front()])
    finally:
        reporter.end()
    return {0: 0, 1: 1, 2: INTERRUPTED, 4: 2, 5: 2}.get(int(code), 3)


def _interrupt_once(_number: int, _frame: object) -> None:
    """Termination is an interruption; `timeout` and others send it twice, and the second must not stop the tidying up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tell(folder: Path, quiet: bool, as_json: bool) -> None:
    from harness.journal import read_run
    from harness.reports.summary import json_summary, text_summary, verdict_line

    finished = read_run(folder)
    if as_json:
        click.echo(json.dumps(json_summary(finished) | {"page": str(folder / "page.html")}, indent=2))
        return
    click.echo(verdict_line(finished) if quiet else text_summary(finished))
    click.echo(f"page: {folder / 'page.html'}")


def _plan_text(plan: Plan, as_json: bool) -> str:
    from harness import environment
    from harness.estimate import estimated_minutes
    from harness.plan import jobs_for
    from harness.types import Purpose

    jobs = jobs_for(plan.cells, plan.keys)
    artifacts = plan.artifacts()
    by_lane = {(c.cell.model, c.cell.backend, c.cell.variant): c for c in plan.cells}
    builds = [job for job in jobs if job.purpose is Purpose.BUILD]
    cached = [j for j in builds if artifacts.knows(by_lane[j.cell.model, j.cell.backend, j.cell.variant])]
    minutes = estimated_minutes(jobs, cached, plan.options.lanes or environment.usable_cores(), plan.options.budget)
    if as_json:
        cells = [{"cell": str(c.cell), "declined": c.unmet, "broken": c.broken} for c in plan.cells]
        figures = {"checks": len(plan.keys), "minutes": round(minutes, 1)}
        return json.dumps({"cells": cells, "jobs": [str(job) for job in jobs], **figures})
    checks = f"{len(plan.keys)} checks on {len(plan.cells)} cells"
    work = f"{len(jobs)} jobs ({len(cached)} of {len(builds)} artifacts cached)"
    told = f"{checks}, {work}: about {minutes:.1f} minutes on {environment.usable_cores()} quiet cores"
    return "\n".join([*(_cell_text(planned) for planned in plan.cells), "", told])


def _cell_text(planned: PlannedCell) -> str:
    if planned.broken:
        return f"{planned.cell}  broken: {planned.broken}"
    return f"{planned.cell}  declined: {planned.unmet}" if planned.unmet else str(planned.cell)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--checks", is_flag=True, help="Every check and level instead, in words: docs/checks.md.")
def list_(as_json: bool, checks: bool) -> None:
    """Models, backends and their variants, devices, checks. Imports no backend."""
    from harness.listing import listing, listing_text

    if checks:
        from harness.handbook import checks_page

        click.echo(checks_page(), nl=False)
        return
    found = listing()
    click.echo(json.dumps(found, indent=2) if as_json else listing_text(found))


@main.command()
@click.argument("run_folder", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), help="The page's file. Default: page.html in the run's folder.")
def report(run_folder: Path, out: Path | None) -> None:
    """Render the page of a run (a folder, or its run.jsonl) again, byte for byte."""
    from harness.journal import read_run
    from harness.reports.page import write_page

    found = read_run(run_folder)
    folder = run_folder if run_folder.is_dir() else run_folder.parent
    page = out or folder / "page.html"
    write_page(found, page)
    click.echo(f"page: {page}")


@main.command()
@click.option("--out", help="The run's folder. Default: harness-out/<date and time>.", metavar="DIR")
@click.option("--cache", help="Where built artifacts are kept. Default: the user's cache folder.", metavar="DIR")
@click.option("--lanes", help="Artifacts checked side by side. Default: the number of cores.", metavar="N")
@click.option("--record", is_flag=True, help="Keep the outcome as the one that ships (in a checkout).")
@click.option("-q", "--quiet", is_flag=True, help="No progress; the outcome alone.")
def selftest(record: bool, quiet: bool, **raw: Any) -> None:
    """Hold backends with one fault each against the checks, and honest ones. Exits 1 unless all are told apart."""
    from harness.selftest import RECORDED, run_liars
    from harness.telling import Reporter

    reporter = Reporter(shlex.join(["harness", *sys.argv[1:]]), quiet)
    outcome = run_liars(Options.of(raw), reporter)
    if reporter.run is not None:
        outcome.write(reporter.run.folder / RECORDED.name)
    if record:
        outcome.write(RECORDED)
    click.echo(outcome.text())
    sys.exit(0 if outcome.sound else 1)


@main.command()
@click.option("--model", multiple=True, help="Whose times are taken. Default: the smallest of the shipped.", metavar="ID")
@click.option("--budget", help="Seconds of measuring. Default: 420.", metavar="S")
@click.option("--out", help="The run's folder. Default: harness-out/<date and time>.", metavar="DIR")
@click.option("--cache", help="Where built artifacts are kept. Default: the user's cache folder.", metavar="DIR")
@click.option("-q", "--quiet", is_flag=True, help="No progress; the outcome alone.")
def noise(quiet: bool, **raw: Any) -> None:
    """How noisy is this machine to timings: false alarms, power, and the smallest change that can be told. Kept for later pages."""
    import platformdirs

    from harness.noise import measure, noise_file
    from harness.telling import Reporter

    found = measure(Options.of(raw | {"only": ["throughput"]}), Reporter(shlex.join(["harness", *sys.argv[1:]]), quiet))
    file = noise_file(platformdirs.user_cache_path("detection-harness"))
    found.write(file)
    for line in found.lines():
        click.echo(line)


@main.command()
@click.argument("cell")
@click.option("--image", multiple=True, help="A picture of the deck. Default: the sample and two more.", metavar="ID")
@click.option("--out", help="Where the graph, its inputs and the script go. Default: harness-out/bisect-<time>.", metavar="DIR")
@click.option("--cache", help="Where built artifacts are kept. Default: the user's cache folder.", metavar="DIR")
@click.option("--adapter", multiple=True, help="A backend from a file: docs/adapters.md.", metavar="FILE.py:NAME")
@click.option("--job-seconds", help="Time limit, in seconds. Default: 900.", metavar="S", default="900")
def bisect(cell: str, image: tuple[str, ...], **raw: Any) -> None:
    """Where CELL, such as tv_maskrcnn_tiny/openvino_ir[f32]@cpu, starts to differ: the stage, then the operator.

    Exits 1 when a stage differs or cannot be asked.
    """
    from harness.locate import locate

    found = locate(cell, Options.of(raw), image, partial(click.echo, err=True))
    for line in found.lines():
        click.echo(line)
    sys.exit(0 if found.agrees else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def env(as_json: bool) -> None:
    """The machine, the libraries under test and whether they work, the devices, the tested versions."""
    import platformdirs

    from harness import doctor
    from harness.listing import diagnosis_text

    found = doctor.diagnose(platformdirs.user_cache_path("detection-harness"))
    click.echo(json.dumps(found.json(), indent=2, default=str) if as_json else diagnosis_text(found))
    if any(library.state == "broken" for library in found.libraries):
        sys.exit(1)


main.add_command(commands.serve)
main.add_command(commands.demo)
main.add_command(commands.store)

if __name__ == "__main__":
    main()
