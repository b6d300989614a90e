"""Saves that are killed, that run at once and that find no room: on the harness's own store, and on BentoML's own routes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.serving.store import PlainStore, StoreFull
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory
from harness.suites.meta.harness.serving.keepers import (
    BYSTANDER,
    KEEPERS,
    KILLS,
    LIMITS,
    SAVES,
    WRITERS,
    attacked,
    kills,
    limits,
    writers,
)

pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M1", "M3"), *THEIR_WARNINGS]


@pytest.fixture(params=[name for name in KEEPERS if name != "plain"])
def librarys(request: pytest.FixtureRequest) -> str:
    if request.param == "bentoml.detectron":
        pytest.importorskip("detectron2")
    return str(request.param)


def test_a_save_killed_at_any_moment_leaves_nothing_half_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    [[first]] = attacked(home, "plain", kills)
    kept = KEEPERS["plain"](home)
    killed = set(kept.tags()) - {BYSTANDER, first}
    # Of those that were killed, not all can have been done.
    assert len(killed) < KILLS
    assert {BYSTANDER, first} <= set(kept.tags())
    for tag in kept.tags():
        kept.load(tag)
    # Whoever comes next tidies up behind them.
    with PlainStore(home)._staging() as staging:
        assert [path for path in staging.parent.iterdir() if path.is_dir()] == [staging]


def test_a_librarys_save_that_is_killed_costs_no_earlier_entry(librarys: str, tmp_path: Path) -> None:
    """What it leaves of its own is another matter: docs/findings.md, bentoml-save-not-atomic."""
    [[first]] = attacked(tmp_path / "home", librarys, kills)
    kept = KEEPERS[librarys](tmp_path / "home")
    for tag in (BYSTANDER, first):
        kept.load(tag)


def test_six_writers_and_readers_on_one_tag(tmp_path: Path) -> None:
    answers = attacked(tmp_path / "home", "plain", writers)
    made = [tag for tags, _, _, _ in answers for tag in tags]
    won = [tag for _, tags, _, _ in answers for tag in tags]
    assert [raised for *_, raised in answers] == [[]] * WRITERS
    assert len(set(made)) == WRITERS * SAVES
    # Of six that asked for one version, one got it.
    assert sorted(won) == [f"once:v{index}" for index in range(SAVES)]
    assert sum(refused for _, _, refused, _ in answers) == (WRITERS - 1) * SAVES
    store = PlainStore(tmp_path / "home")
    listed = store.list()
    assert sorted(str(found.tag) for found in listed) == sorted([BYSTANDER, *made, *won])
    assert not [found.damage for found in listed if found.damage]
    newest = max((found for found in listed if found.tag.name == "shared"), key=lambda found: found.created)
    assert store.get("shared").tag == newest.tag


def test_what_a_library_says_it_saved_among_six_writers_is_there(librarys: str, tmp_path: Path) -> None:
    """That it also raises for saves that were done, and for readers: docs/findings.md, bentoml-latest-while-saving."""
    answers = attacked(tmp_path / "home", librarys, writers)
    made = {tag for made, won, _, _ in answers for tag in (*made, *won)}
    assert made
    kept = KEEPERS[librarys](tmp_path / "home")
    assert made <= set(kept.tags())
    for tag in made:
        kept.load(tag)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_no_room_costs_the_new_entry_and_nothing_else(keeper: str, tmp_path: Path) -> None:
    if keeper == "bentoml.detectron":
        pytest.importorskip("detectron2")
    raised = attacked(tmp_path / "home", keeper, limits)
    assert len(raised) == len(LIMITS)
    if keeper == "plain":
        assert all("there is no room in" in said for said in raised)
    kept = KEEPERS[keeper](tmp_path / "home")
    assert kept.tags() == [BYSTANDER]
    kept.load(BYSTANDER)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this system lets nobody mount a small disk here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, tmp_path: Path) -> None:
    store = PlainStore(small_disk / "home")
    model = changed_in_memory("tv_ssdlite_tiny", tmp_path / "source")
    made = []

    def fill() -> None:
        while len(made) < 20:
            made.append(str(store.save("full", model)))

    with pytest.raises(StoreFull, match="No space left on device"):
        fill()
    assert made
    listed = store.list()
    assert sorted(str(found.tag) for found in listed) == sorted(made)
    assert not [found.damage for found in listed if found.damage]
    for tag in made:
        store.get(tag).load()
