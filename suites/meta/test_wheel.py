"""What a stranger gets: the wheel installs one package and runs everything outside the checkout."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Installed

MODEL = "tv_fasterrcnn_tiny"


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_installs_one_top_level_package(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names_in(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"harness"}


def test_it_holds_all_that_a_run_needs(wheel: Path) -> None:
    from harness.fixtures.models import MODELS

    names = names_in(wheel)
    weights = {f"harness/fixtures/weights/{spec.weights.path}" for spec in MODELS.values()}
    others = {"harness/constraints.txt", "harness/py.typed", "harness/reports/page.html.j2"}
    assert weights | others <= names
    assert not [name for name in names if name.startswith("harness/suites/meta")]


def test_every_file_that_is_data_in_the_checkout_is_in_it(wheel: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    kinds = {".safetensors", ".json", ".toml", ".j2", ".css", ".js"}
    rooms = {"harness": "harness", "fixtures": "harness/fixtures", "reports": "harness/reports"}
    published = ("baselines", "published")
    data = {
        f"{inside}/{path.relative_to(root / room).as_posix()}"
        for room, inside in rooms.items()
        for path in (root / room).rglob("*")
        if path.suffix in kinds and path.relative_to(root / room).parts[0] not in published
    }
    assert len(data) > 3
    assert data <= names_in(wheel)


def test_it_is_what_runs(installed: Installed) -> None:
    code = "import harness, harness.fixtures, harness.suites, harness.reports; print(harness.__file__, *harness.__path__)"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(place.startswith(str(installed.site_packages)) for place in done.stdout.split())


def test_one_model_runs_outside_the_checkout(installed: Installed, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cells = ["--model", MODEL, "--backend", "onnxruntime_session", "--variant", "f32_mended", "--device", "cpu"]
    done = installed.run("harness", "run", "--quick", *cells, "--out", out, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(out / "page.html") in done.stdout
    assert MODEL in (out / "page.html").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in (out / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    judged = {(line["check"], line["cell"]["backend"]): line["status"] for line in lines if line["kind"] == "record"}
    assert judged["reference.stable", "torch_eager"] == "passed"
    assert judged["parity.boxes", "onnxruntime_session"] == "passed"


def test_the_suites_run_under_pytest_outside_the_checkout(installed: Installed, tmp_path: Path) -> None:
    options = [f"--harness-out={tmp_path / 'run'}", f"--harness-cache={tmp_path / 'cache'}", "--harness-quick"]
    cells = [f"--harness-model={MODEL}", "--harness-backend=torch_eager", "--harness-device=cpu", "-k", "test_opens"]
    done = installed.run("python", "-m", "pytest", "--pyargs", "harness.suites", *options, *cells, "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
