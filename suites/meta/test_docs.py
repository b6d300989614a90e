"""What README and docs say is true: their commands are the ones that CI runs, their links lead somewhere, their code works."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.fixtures.models import DEFAULT_MODELS, MODELS
from harness.handbook import checks_page

if TYPE_CHECKING:
    from conftest import Installed

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADAPTERS = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MODEL = "tv_fasterrcnn_tiny"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_two_commands_do_all_the_set_up() -> None:
    run, test = (block.strip() for block in blocks(README, "console"))
    assert "\n" not in run + test
    assert run.endswith("&& .venv/bin/harness run")
    assert test.endswith("&& .venv/bin/tox")
    for command in (run, test):
        assert "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt " in command


def test_ci_runs_the_readmes_test_command() -> None:
    _, test = (block.strip() for block in blocks(README, "console"))
    assert f"({test})" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_ci_asks_what_tox_asks_with_detectron2() -> None:
    (asked,) = re.findall(r"-m harness.suites (-k .*)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert f"python -m harness.suites {asked}" == re.sub(r"\{posargs:(.*)\}$", r"\1", tox["testenv:detectron2"]["commands"].strip())


def test_ci_checks_every_detector_that_ships() -> None:
    (others,) = re.findall(r"^others='([^']+)'", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted([*DEFAULT_MODELS, *others.split()]) == sorted(MODELS)


def test_the_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if not target.startswith("https://")]
    assert [target for target in inside if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page: Path) -> None:
    known = subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    commands = re.findall(r"^(?:\.venv/bin/)?harness run(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = {option for command in commands for option in re.findall(r"--[a-z-]+", command)}
    assert {option for option in named if option not in known.stdout} == set()


def test_the_page_of_checks_is_what_list_prints() -> None:
    assert (ROOT / "docs/checks.md").read_text(encoding="utf-8") == checks_page(), "harness list --checks > docs/checks.md"


def test_tox_builds_at_most_two_environments_with_torch_by_default() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    default = [name.strip() for name in tox["tox"]["env_list"].split(",")]
    assert default == ["lint", "py"]
    assert tox["testenv:lint"]["skip_install"] == "true"
    assert "torch" not in tox["testenv:lint"]["deps"]
    assert {"testenv:detectron2", "testenv:latest"} <= set(tox.sections())
    assert tox["testenv"]["constraints"].endswith("constraints.txt")
    assert tox["testenv:latest"]["constraints"] == ""


def test_detectron2_is_never_asked_of_an_index() -> None:
    texts = {
        path: (ROOT / path).read_text(encoding="utf-8") for path in ("tox.ini", ".ci/run", "pyproject.toml", "docs/running.md")
    }
    for path, text in texts.items():
        for line in text.splitlines():
            if re.search(r"pip (install|download|wheel)\b.*\bdetectron2\b(?!/)", line) and "git+https" not in line:
                assert "--no-index" in line, f"{path}: {line}"
    project = texts["pyproject.toml"]
    assert not re.search(r'^\s*"detectron2\b', project, re.MULTILINE)


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """The adapter of docs/adapters.md, as a reader would have it."""
    (code,) = blocks(ADAPTERS, "python")
    path = tmp_path / "torch_pickle.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_the_adapter_of_the_guide_is_short(backend: Path) -> None:
    assert len(backend.read_text(encoding="utf-8").splitlines()) < 60


def test_the_adapter_of_the_guide_goes_through_every_suite(installed: Installed, backend: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", "--model", MODEL, "--adapter", f"{backend}:ADAPTER", "--backend", "torch_pickle"]
    done = installed.run("harness", *words, "--device", "cpu", "--out", out, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = statuses_of(out, "torch_pickle")
    assert {check.partition(".")[0] for check in statuses} == {"contract", "fidelity", "parity", "throughput"}
    assert {statuses["contract.opens"], statuses["fidelity.weights"], statuses["parity.boxes"]} == {"passed"}
    assert "torch_pickle" in (out / "page.html").read_text(encoding="utf-8")


def test_the_package_of_the_guide_is_found_where_it_is_installed(installed: Installed, backend: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (project,) = blocks(ADAPTERS, "toml")
    (package / "pyproject.toml").write_text(project, encoding="utf-8")
    shutil.copy(backend, package / "torch_pickle.py")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    python = installed.bin / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        listed = installed.run("harness", "list")
        assert "torch_pickle" in listed.stdout, listed.stderr
        out = tmp_path / "run"
        words = ["run", "--quick", "--backend", "torch_pickle", "--model", MODEL, "--device", "cpu", "--check", "contract.opens"]
        ran = installed.run("harness", *words, "--out", out, "--cache", tmp_path / "cache")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert statuses_of(out, "torch_pickle")["contract.opens"] == "passed"
    finally:
        remove = [sys.executable, "-m", "pip", "--python", str(python), "uninstall", "--quiet", "--yes", "torch-pickle-backend"]
        subprocess.run(remove, capture_output=True, check=True)


def statuses_of(out: Path, backend: str) -> dict[str, str]:
    """The status of every check of one backend, as the run's own reader tells."""
    from harness.journal import read_run

    return {record.check: str(record.status) for record in read_run(out).records if record.cell.backend == backend}
