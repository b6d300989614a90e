"""The cache gives back what was built from the same content, and nothing else."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

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
    with artifacts.held(PLANNED, Event()) as folder:
        assert folder is not None
        for name in (artifacts.artifact(folder), artifacts.source(folder)):
            name.mkdir()
            (name / "file").write_text("content")
        artifacts.keep_build(folder, BUILT)
        return folder


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    folder = build(cache(tmp_path))
    with cache(tmp_path).held(PLANNED, Event()) as held:
        assert held == folder
        kept = cache(tmp_path).kept_build(folder)
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


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("artifact", [True, False])
def test_what_is_taken_away_is_away_as_long_as_asked_and_comes_back_even_after_an_error(
    tmp_path: Path, artifact: bool, source: bool
) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    seen = []

    def broken_job() -> None:
        with artifacts.away(folder, artifact=artifact, source=source):
            seen.append((artifacts.artifact(folder).exists(), artifacts.source(folder).exists()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_job()
    assert seen == [(not artifact, not source)]
    assert artifacts.kept_build(folder) is not None


@pytest.mark.parametrize("name", ["source", "artifact"])
def test_what_a_killed_run_left_away_is_put_back(tmp_path: Path, name: str) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    (folder / name).rename(folder / f"{name}.away")
    with artifacts.held(PLANNED, Event()):
        assert artifacts.kept_build(folder) is not None


def test_an_entry_that_another_run_holds_is_waited_for_until_told_to_stop(tmp_path: Path) -> None:
    artifacts, stop = cache(tmp_path), Event()
    with artifacts.held(PLANNED, stop), ThreadPoolExecutor() as pool:

        def wait() -> Path | None:
            with cache(tmp_path).held(PLANNED, stop) as folder:
                return folder

        waiting = pool.submit(wait)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        stop.set()
        assert waiting.result(timeout=10) is None
    with artifacts.held(PLANNED, Event()) as folder:
        assert folder is not None
