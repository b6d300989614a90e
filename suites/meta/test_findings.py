"""Every finding is shown by a script that needs nothing of this project, and every waiver leads to its finding."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import present
from harness.waivers import load_waivers

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "docs/findings").glob("*.py"))
TEXT = (ROOT / "docs/findings.md").read_text(encoding="utf-8")


def needs(script: Path, library: str) -> bool:
    return re.search(rf"^(import|from) {library}", script.read_text(encoding="utf-8"), re.MULTILINE) is not None


def named(script: Path) -> str:
    """With the word that `tox -e detectron2` picks tests by."""
    return f"{script.stem} (detectron2)" if needs(script, "detectron2") else script.stem


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_the_script_shows_the_finding_without_this_project(script: Path, tmp_path: Path) -> None:
    assert "harness" not in script.read_text(encoding="utf-8")
    for optional in ("detectron2", "nncf"):
        if needs(script, optional) and not present(optional):
            pytest.skip(f"{optional} is not installed")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SHOWN: " in done.stdout


def test_the_list_of_findings_names_every_script_and_no_other() -> None:
    assert set(re.findall(r"docs/findings/([a-z0-9_]+)\.py", TEXT)) == {script.stem for script in SCRIPTS}


def test_every_waiver_leads_to_a_finding() -> None:
    headings = set(re.findall(r"^### ([a-z0-9-]+)$", TEXT, re.MULTILINE))
    waivers = load_waivers()
    assert waivers
    assert {waiver.finding for waiver in waivers} <= headings


def test_every_library_has_its_version() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        assert re.search(r"^Seen with .*\d", section, re.MULTILINE), section.splitlines()[0]


def test_every_finding_says_where_it_starts_and_what_shows_it() -> None:
    for entry in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        for word in ("- First stage that differs:", "- What follows", "- Shown by:", "- Way round:"):
            assert word in entry, f"{entry.splitlines()[0]} lacks {word}"
