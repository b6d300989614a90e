"""The cache gives back what was built from the same content, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.artifacts import Artifacts
from harness.plan import PlannedCell
from harness.registry import load_adapter
from harness.types import Cell, Job, ModelSpec, Observation, Purpose, Variant, Weights

SPEC = ModelSpec("m", "torchvision", {"width": 1}, Weights("shipped", "m", "aa"), "detection", ("a",), 0.05, 20)
CELL = Cell("m", "torch_eager", "fp32", "cpu")
PLANNED = PlannedCell(CELL, SPEC, Variant("fp32"), "torch_eager")
BUILT = Observation(Job(CELL, Purpose.BUILD), build_s=1.0)


def cache(root: Path, versions: dict[str, str] | None = None, seed: int = 1, deck: str = "d") -> Artifacts:
    return Artifacts(root, versions or {"torch": "1"}, {"torch_eager": load_adapter("torch_eager")}, seed, deck)


def build(artifacts: Artifacts) -> Path:
    with artifacts.held(PLANNED) as held:
        for name in (artifacts.artifact(held.folder), artifacts.source(held.folder)):
            name.mkdir()
            (name / "file").write_text("content")
        artifacts.keep_build(held.folder, BUILT)
        return held.folder


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    folder = build(cache(tmp_path))
    with cache(tmp_path).held(PLANNED) as held:
        assert held.folder == folder
        kept = cache(tmp_path).kept_build(held.folder)
    assert kept is not None
    assert kept.build_s == 1.0
    assert cache(tmp_path).knows(PLANNED)


@pytest.mark.parametrize("name", ["artifact/file", "source/file", "build/observation.json", "manifest.json"])
def test_a_changed_or_missing_file_means_building_again(tmp_path: Path, name: str) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    (folder / name).write_text("other")
    assert artifacts.kept_build(folder) is None
    (folder / name).unlink()
    assert artifacts.kept_build(folder) is None


def test_an_extra_file_means_building_again(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    (folder / "artifact" / "more").write_text("")
    assert artifacts.kept_build(folder) is None


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(PLANNED, spec=dataclasses.replace(SPEC, weights=Weights("shipped", "m", "bb"))),
        dataclasses.replace(PLANNED, spec=dataclasses.replace(SPEC, config={"width": 2})),
        dataclasses.replace(PLANNED, spec=dataclasses.replace(SPEC, score_threshold=0.5)),
        dataclasses.replace(PLANNED, variant=Variant("fp32", build={"opset": 18})),
    ],
)
def test_other_content_is_another_entry(tmp_path: Path, other: PlannedCell) -> None:
    assert cache(tmp_path).key(other) != cache(tmp_path).key(PLANNED)


def test_other_surroundings_are_another_entry(tmp_path: Path) -> None:
    keys = {
        made.key(PLANNED)
        for made in (cache(tmp_path), cache(tmp_path, {"torch": "2"}), cache(tmp_path, seed=2), cache(tmp_path, deck="e"))
    }
    assert len(keys) == 4


def test_open_options_share_an_artifact_only_with_their_own_variant(tmp_path: Path) -> None:
    threads = dataclasses.replace(PLANNED, variant=Variant("fp32", open={"threads": 4}))
    assert cache(tmp_path).key(threads) == cache(tmp_path).key(PLANNED)


def test_the_source_is_away_for_as_long_as_asked_and_comes_back_even_after_an_error(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    seen = []

    def broken_job() -> None:
        with artifacts.source_absent(folder, absent=True):
            seen.append(artifacts.source(folder).exists())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_job()
    assert seen == [False]
    assert (artifacts.source(folder) / "file").is_file()


def test_a_source_left_away_by_a_killed_run_is_put_back(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    artifacts.source(folder).rename(folder / "source.away")
    with artifacts.held(PLANNED):
        assert (artifacts.source(folder) / "file").is_file()
        assert artifacts.kept_build(folder) is not None
