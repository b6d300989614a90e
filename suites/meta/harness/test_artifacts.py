"""The cache gives back what was built from the same content, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from harness.artifacts import Artifacts, Foreign
from harness.integrity import Damaged, demand_whole, seal
from harness.plan import PlannedCell
from harness.registry import load_adapter
from harness.types import Cell, Job, ModelSpec, Observation, Purpose, Variant, Weights

ROOT = Path(__file__).parents[3]
SPEC = ModelSpec("m", "torchvision", {"width": 1}, Weights("shipped", "m", "aa"), "detection", ("a",), 0.05, 20)
CELL = Cell("m", "torch_eager", "fp32", "cpu")
PLANNED = PlannedCell(CELL, SPEC, Variant("fp32"), "torch_eager")
BUILT = Observation(Job(CELL, Purpose.BUILD), build_s=1.0)


def cache(root: Path, versions: dict[str, str] | None = None, seed: int = 1, deck: str = "d", key: bytes = b"mine") -> Artifacts:
    return Artifacts(root, versions or {"torch": "1"}, {"torch_eager": load_adapter("torch_eager")}, seed, deck, key)


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


def planted(folder: Path) -> None:
    """Another file in the place of one, and a list that fits it: whoever can write there can do so."""
    (folder / "artifact" / "file").write_text("planted")
    seal(folder, links=True)


@pytest.mark.parametrize("spoil", [planted, lambda folder: folder.with_name(f"{folder.name}.signature").unlink()])
def test_what_somebody_else_sealed_is_not_opened(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = build(cache(tmp_path))
    spoil(folder)
    demand_whole(folder)
    with pytest.raises(Foreign, match="was not built by this user on this machine"):
        cache(tmp_path).kept_build(folder)
    assert not cache(tmp_path).knows(PLANNED)


def test_what_another_user_signed_or_what_lies_under_another_name_is_not_opened(tmp_path: Path) -> None:
    folder = build(cache(tmp_path))
    with pytest.raises(Foreign):
        cache(tmp_path, key=b"another").kept_build(folder)
    other = cache(tmp_path, seed=2)
    with other.held(PLANNED, Event()) as held:
        assert held is not None
        shutil.copytree(folder, held, dirs_exist_ok=True)
        shutil.copy(f"{folder}.signature", f"{held}.signature")
        with pytest.raises(Foreign):
            other.kept_build(held)


def test_what_is_cleared_is_not_signed_any_more(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    kept = (folder / "manifest.json").read_bytes()
    artifacts.clear(folder)
    (folder / "manifest.json").write_bytes(kept)
    with pytest.raises(Foreign):
        artifacts.kept_build(folder)


@pytest.mark.parametrize("name", ["artifact/file", "source/file", "build/observation.json"])
def test_a_changed_or_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    whole = (folder / name).read_bytes()
    for content in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], whole + b" "):
        (folder / name).write_bytes(content)
        with pytest.raises(Damaged, match=name):
            artifacts.kept_build(folder)
    (folder / name).unlink()
    with pytest.raises(Damaged, match=f"{name} is missing"):
        artifacts.kept_build(folder)


def test_a_list_that_was_changed_is_not_signed_and_one_that_is_gone_was_never_finished(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    whole = (folder / "manifest.json").read_bytes()
    for content in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], whole + b" "):
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(Foreign):
            artifacts.kept_build(folder)
    (folder / "manifest.json").unlink()
    assert artifacts.kept_build(folder) is None


def test_an_extra_file_is_named(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    folder = build(artifacts)
    (folder / "artifact" / "more").write_text("")
    with pytest.raises(Damaged, match="artifact/more is not in the manifest"):
        artifacts.kept_build(folder)


def test_a_link_in_an_artifact_is_kept_and_one_that_leads_elsewhere_is_named(tmp_path: Path) -> None:
    artifacts = cache(tmp_path)
    with artifacts.held(PLANNED, Event()) as folder:
        assert folder is not None
        artifacts.artifact(folder).mkdir()
        link = artifacts.artifact(folder) / "link"
        link.symlink_to("file")
        artifacts.keep_build(folder, BUILT)
        assert artifacts.kept_build(folder) is not None
        link.unlink()
        link.symlink_to("elsewhere")
        with pytest.raises(Damaged, match="artifact/link has 9 bytes instead of 4"):
            artifacts.kept_build(folder)
        link.unlink()
        link.write_text("file")
        with pytest.raises(Damaged, match="artifact/link is a file and no link"):
            artifacts.kept_build(folder)


BUILDING = """
import sys
import time
from pathlib import Path
from threading import Event
from suites.meta.harness.test_artifacts import BUILT, PLANNED, cache

artifacts = cache(Path(sys.argv[1]))
while True:
    with artifacts.held(PLANNED, Event()) as folder:
        artifacts.clear(folder)
        for part in (artifacts.artifact(folder), artifacts.source(folder)):
            part.mkdir()
            for number in range(20):
                (part / str(number)).write_bytes(b"x" * 50_000)
        if len(sys.argv) > 2:
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        artifacts.keep_build(folder, BUILT)
    print("whole", flush=True)
    time.sleep(0.004)
"""


@pytest.mark.alone
def test_a_build_killed_at_any_point_leaves_a_whole_entry_or_none(tmp_path: Path) -> None:
    whole = 0
    for number in range(8):
        process = subprocess.Popen([sys.executable, "-c", BUILDING, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"whole\n"
        time.sleep(number * 0.002)  # one build takes about 10 ms, and is left whole for 4: kills fall on all of it
        process.kill()
        process.wait()
        process.stdout.close()
        with cache(tmp_path).held(PLANNED, Event()) as folder:
            assert folder is not None
            kept = cache(tmp_path).kept_build(folder)
            whole += kept is not None
            assert kept is None or len(list(cache(tmp_path).artifact(folder).iterdir())) == 20
    assert 0 < whole < 8


def test_a_full_disk_leaves_no_entry_and_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILDING, str(tmp_path), "100"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode
    assert "File too large" in done.stderr
    with cache(tmp_path).held(PLANNED, Event()) as folder:
        assert folder is not None
        assert cache(tmp_path).kept_build(folder) is None
        assert not list(folder.glob(".manifest*"))


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
