"""The pytest plugin: parametrises the suites over cells, runs the jobs that the kept tests need, turns verdicts into outcomes.

The only module that imports pytest. Nothing of a run is imported until a test of the suites is collected; other people's runs
only see the options.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.options import OPTIONS, Options

if TYPE_CHECKING:
    from harness.live import LiveRun, Plan
    from harness.types import Cell, Record

PREFIX = "--harness-"
RUN = pytest.StashKey["LiveRun"]()
PLAN = pytest.StashKey["Plan"]()
REPORTER = pytest.StashKey[Any]()
"""What `harness run` hangs in before pytest starts: something with the methods of `harness.telling.Reporter`."""


_BENCHMARK = "benchmark"
"""pytest-benchmark's plugin, and its fixture."""

_ACTIONS: dict[str, dict[str, Any]] = {
    "list": {"action": "append"},
    "flag": {"action": "store_true", "default": None},
    "one": {"action": "store"},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """One command-line option and one ini value for each of `harness.options.OPTIONS`."""
    group = parser.getgroup("harness", "detection-harness")
    for option in OPTIONS:
        action = dict(_ACTIONS[option.kind])
        if option.metavar:
            action["metavar"] = option.metavar
        group.addoption(PREFIX + option.name, dest=f"harness_{option.field}", help=option.help, **action)
        kind = {"list": "args", "flag": "bool", "one": "string"}[option.kind]
        parser.addini(f"harness_{option.field}", help=option.help, type=kind, default=None)  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the suites."""
    config.addinivalue_line("markers", "check(id): a demand of the suites, judged on every cell it is planned for.")
    config.addinivalue_line("markers", "covers(row): the row of docs/coverage.md that this test covers.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Outside the checkout the project's own tests are left out: an editable install shows them beside the demands."""
    root = Path(__file__).resolve().parents[1]
    return True if collection_path == root / "suites" / "meta" and config.rootpath != root else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise a demand over its cells."""
    marker = metafunc.definition.get_closest_marker("check")
    if marker is None or "verdict" not in metafunc.fixturenames:
        return
    plan = _plan(metafunc.config)
    (check,) = marker.args
    cells = plan.cells_of(check)
    metafunc.parametrize("verdict", [(check, cell) for cell in cells], ids=[str(cell) for cell in cells], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A demand that is planned for no cell is no test of this run."""
    items[:] = [item for item in items if item.get_closest_marker("check") is None or _key(item) is not None]
    for item in items:
        names = getattr(item, "fixturenames", [])
        if "replayed" in names and item.config.pluginmanager.has_plugin(_BENCHMARK):
            # After the others, whose marker it must find; ``--benchmark-only`` and ``--benchmark-skip`` look for it here.
            names.append(_BENCHMARK)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the jobs that the kept tests need."""
    keys = [key for item in session.items if (key := _key(item)) is not None]
    config = session.config
    if not keys or config.option.collectonly or session.testsfailed:
        return
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("the suites run their own processes: run them without -n (pytest-xdist)")
    from harness.errors import HarnessError
    from harness.executor import quiet
    from harness.live import LiveRun

    reporter = config.stash.get(REPORTER, None)
    run = LiveRun(_plan(config), _command(config), reporter.job if reporter else quiet)
    try:
        run.start(keys, reporter.say if reporter else lambda _: None)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[RUN] = run
    if reporter:
        reporter.begin(run)


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """The judged record of this check on this cell; an errored or missing one raises here, which pytest tells as an error."""
    check, cell = request.param
    run = request.config.stash[RUN]
    record = run.verdict(check, cell)
    request.node.user_properties.append(("harness_status", str(record.status)))
    if record.status in ("errored", "missing"):
        raise NotJudged(f"{record.status}: {record.reason}\n  {record.reproduce}")
    return Verdict(record, strict_waivers=run.plan.options.strict_waivers)


@pytest.fixture
def replayed(request: pytest.FixtureRequest, verdict: Verdict) -> Callable[[], None]:
    """Hands what was timed on to pytest-benchmark, where that is loaded, when it is called."""
    if not request.config.pluginmanager.has_plugin(_BENCHMARK):
        return lambda: None
    replay = request.config.stash[RUN].replay(verdict.record.cell)
    request.node.add_marker(pytest.mark.benchmark(timer=replay.timer, group=replay.group))
    return lambda: replay.feed(request.getfixturevalue(_BENCHMARK))


class NotJudged(Exception):
    """A check that could not be judged: the job broke, or it compared nothing."""

    __tracebackhide__ = True


class Verdict:
    """A judged record, ready to be demanded."""

    def __init__(self, record: Record, strict_waivers: bool) -> None:
        self.record = record
        self._strict_waivers = strict_waivers

    def demand(self) -> None:
        """Pass, fail, skip or xfail as the record says."""
        __tracebackhide__ = True
        record = self.record
        told = f"{record.reason}\n  {record.reproduce}"
        if record.status == "failed":
            pytest.fail(told, pytrace=False)
        if record.status in ("declined", "inconclusive"):
            pytest.skip(f"{record.status}: {record.reason}")
        if record.status == "waived":
            pytest.xfail(f"waived ({record.waiver}): {record.reason}")
        if record.waiver is not None and self._strict_waivers:
            pytest.fail(f"stale waiver {record.waiver}: this check passes now; remove the waiver\n  {told}", pytrace=False)
        if record.status != "passed" or record.compared == 0:
            raise NotJudged(f"a record that is {record.status} after comparing {record.compared} things passes nothing")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, Any, Any]:
    """Write the rest of the run and the page, whatever happened."""
    run = session.config.stash.get(RUN, None)
    if run is not None:
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        stopped = "interrupted" if interrupted else "stopped at the first failure" if session.shouldfail else None
        run.close(stopped)
        _publish(run)
        unmet = run.unmet_requirements()
        if unmet and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Where the page lies, and the verdict."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    from harness.journal import read_run
    from harness.reports.summary import text_summary

    terminalreporter.section("detection-harness")
    terminalreporter.write_line(text_summary(read_run(run.folder)))
    terminalreporter.write_line(f"page: {run.folder / 'page.html'}")
    for sentence in run.unmet_requirements():
        terminalreporter.write_line(sentence)


def _publish(run: LiveRun) -> None:
    from harness.journal import read_run
    from harness.reports.page import write_page

    write_page(read_run(run.folder), run.folder / "page.html")


def _plan(config: pytest.Config) -> Plan:
    if PLAN not in config.stash:
        from harness.errors import HarnessError
        from harness.live import Plan

        try:
            config.stash[PLAN] = Plan(_options(config))
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[PLAN]


def _options(config: pytest.Config) -> Options:
    raw: dict[str, Any] = {}
    for option in OPTIONS:
        given = getattr(config.option, f"harness_{option.field}", None)
        raw[option.field] = given if given is not None else config.getini(f"harness_{option.field}")
    return Options.of(raw)


def _key(item: pytest.Item) -> tuple[str, Cell] | None:
    call = getattr(item, "callspec", None)
    if call is None or item.get_closest_marker("check") is None:
        return None
    key = call.params.get("verdict")
    return key if isinstance(key, tuple) else None


def _command(config: pytest.Config) -> str:
    reporter = config.stash.get(REPORTER, None)
    if reporter:
        return str(reporter.command)
    words = [os.path.relpath(word) if Path(word).is_absolute() else word for word in map(str, config.invocation_params.args)]
    return shlex.join([Path(sys.argv[0]).name or "pytest", *words])
