"""The table of what each route through a store keeps is what these routes do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.journal import read_run
from harness.keeps import COLUMNS, MODELS, PAGE, head, rows, rows_in

ROOT = Path(__file__).resolve().parents[2]
PAGE_TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
# Of the service the routes that start most of it; a served library's own losses are those of its route through the store.
VARIANTS = (
    ("bentoml_store", ("module", "predictor", "predictor_mended", "pytorch", "pytorch_mended", "torchscript", "onnx", "plain")),
    ("bentoml_service", ("bento", "legacy_mended")),
)


@pytest.mark.covers("M1", "M2", "M3")
@pytest.mark.parametrize(
    "model", [pytest.param(model, id=f"{model} detectron2" if model[:2] == "d2" else model) for model in MODELS]
)
def test_the_table_says_what_a_run_of_the_fidelity_suite_finds(model: str, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    if model.startswith("d2"):
        pytest.importorskip("detectron2")
    command = [sys.executable, "-m", "harness.cli", "run", "--quick", "--model", model, "--out", str(tmp_path / "run")]
    for backend, variants in VARIANTS:
        command += ["--backend", backend]
        command += [word for variant in variants for word in ("--variant", variant)]
    command += [word for check in COLUMNS.values() for word in ("--check", check)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (tmp_path / "run").is_dir(), done.stdout + done.stderr
    found = rows(read_run(tmp_path / "run"))
    assert len(found) >= 6
    assert [line for line in found.values() if line not in rows_in(PAGE_TEXT)] == []


def test_the_table_has_its_columns_and_both_families() -> None:
    assert head() in PAGE_TEXT
    lines = rows_in(PAGE_TEXT)
    assert {line.split(" | ")[0] for line in lines} == {"| torchvision", "| Detectron2"}
    assert not [line for line in lines if "failed" in line or "errored" in line or "missing" in line]


def test_a_page_without_a_table_is_told() -> None:
    with pytest.raises(UsageError, match="there is no table"):
        rows_in("# Findings")
