"""The table of what each route through a store keeps is what these routes do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.journal import read_run
from harness.keeps import BEGIN, COLUMNS, END, MODELS, OPENS, PAGE, differences, head, rows, rows_in
from harness.types import Cell, Record, Status

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
    command += [word for check in (OPENS, *COLUMNS.values()) for word in ("--check", check)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (tmp_path / "run").is_dir(), done.stdout + done.stderr
    run = read_run(tmp_path / "run")
    assert len(rows(run)) >= 6
    assert differences(run, PAGE_TEXT) == []


def recorded(*told: tuple[str, str, Status], variant: str = "pytorch") -> Any:
    """A run of one route of torchvision's: by check its status and, where waived, by which waiver."""
    cell = Cell(MODELS[0], "bentoml_store", variant, "cpu")
    verdicts = tuple(Record(check, cell, status, waiver, waiver=waiver or None) for check, waiver, status in told)
    return SimpleNamespace(verdicts=verdicts, header=SimpleNamespace(versions={"bentoml": "1.4.39", "torch": "2.15.0"}))


DOES_NOT_OPEN = recorded(
    (OPENS, "weights_only", Status.FAILED),
    ("fidelity.caller_unchanged", "", Status.PASSED),
    *((check, "", Status.DECLINED) for check in COLUMNS.values() if check != "fidelity.caller_unchanged"),
)


def test_a_route_that_does_not_open_leads_to_the_finding_in_every_column_that_could_not_be_asked() -> None:
    (line,) = rows(DOES_NOT_OPEN).values()
    no = "[no](#bentoml-pytorch-load)"
    assert line == f"| torchvision | `bentoml_store[pytorch]` | {no} | {no} | {no} | yes | {no} | {no} | {no} | {no} |"
    assert line in rows_in(PAGE_TEXT)
    unwaived = recorded((OPENS, "another reason", Status.FAILED), ("fidelity.weights", "", Status.DECLINED))
    assert next(iter(rows(unwaived).values())).count("failed") == len(COLUMNS)


def test_a_line_that_is_not_so_any_more_is_found_as_is_one_that_is_not_there() -> None:
    page = f"{BEGIN}\n{head()}\n{{}}{END}\n"
    (line,) = rows(DOES_NOT_OPEN).values()
    stale = line.replace("yes", "[no](#bentoml-callers-dictionaries)")
    elsewhere = "| Detectron2 | `bentoml_store[module]` | yes |"
    assert differences(DOES_NOT_OPEN, page.format(f"{line}\n{elsewhere}\n")) == []
    assert differences(DOES_NOT_OPEN, page.format(f"{line}\n{stale}\n")) == [f"- {stale}"]
    assert differences(DOES_NOT_OPEN, page.format(f"{line}\n{line}\n")) == [f"- {line}"]
    assert differences(DOES_NOT_OPEN, page.format("")) == [f"+ {line}"]
    # A route that the run holds and has nothing to say of, because it is another family's.
    declined = recorded((OPENS, "", Status.DECLINED), variant="module")
    gone = "| torchvision | `bentoml_store[module]` | yes |"
    assert differences(declined, page.format(f"{gone}\n")) == [f"- {gone}"]


def test_every_line_is_of_a_route_that_there_is() -> None:
    from harness.registry import load_adapter

    routes = {f"`{name}[{variant.id}]`" for name, _ in VARIANTS for variant in load_adapter(name).variants}
    assert {line.split(" | ")[1] for line in rows_in(PAGE_TEXT)} <= routes


def test_the_table_has_its_columns_and_both_families() -> None:
    assert head() in PAGE_TEXT
    lines = rows_in(PAGE_TEXT)
    assert {line.split(" | ")[0] for line in lines} == {"| torchvision", "| Detectron2"}
    assert not [line for line in lines if "failed" in line or "errored" in line or "missing" in line]


def test_a_page_without_a_table_is_told() -> None:
    with pytest.raises(UsageError, match="there is no table"):
        rows_in("# Findings")
