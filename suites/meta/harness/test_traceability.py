"""docs/coverage.md says what the marks say, and nothing is called done that no test has shown on the real component."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import traceability
from harness.registry import adapters, models
from harness.traceability import Covering, Outcome, Row, libraries_of, main, marked, outcomes, page, problems, read_junit, rows

ROOT = Path(__file__).resolve().parents[3]
ROW = Row("M1", "saving", "the store", frozenset({"bentoml", "detectron2"}), "done")
ON_IT = Covering("suites/meta/test_x.py::test_x", ("M1",), frozenset({"bentoml", "detectron2", "numpy"}))
BESIDE_IT = Covering("suites/meta/test_x.py::test_x", ("M1",), frozenset({"numpy"}))
PASSED = Outcome("passed")

SUITE = """
import pytest
from harness.adapters import onnxruntime_session

pytestmark = pytest.mark.covers("M2")

@pytest.mark.covers("M1", "M3")
def test_one(): pytest.importorskip("detectron2.model_zoo")

class TestTwo:
    @pytest.mark.parametrize("n", [1])
    @pytest.mark.covers("M4")
    def test_two(self, n): ...

def helper(): ...
"""

JUNIT = """<testsuites><testsuite>
<testcase classname="suites.meta.test_x" name="test_x[1]"/>
<testcase classname="suites.meta.test_x" name="test_x[2]">{}</testcase>
<testcase classname="suites.meta.test_y" name="test_x"><failure/></testcase>
</testsuite></testsuites>"""


def test_the_page_is_up_to_date_and_true(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().err


def test_every_promise_has_its_row() -> None:
    assert [row.id for row in rows(ROOT)] == [f"M{number}" for number in range(1, 22)]
    assert {row.status for row in rows(ROOT)} <= {"open", "partly", "done"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one suite file, with this project's rows all open."""
    for folder in ("docs", "suites/meta", "harness/adapters"):
        (tmp_path / folder).mkdir(parents=True)
    text = (ROOT / traceability.ROWS).read_text().replace('"partly"', '"open"').replace('status = "done"', 'status = "open"')
    (tmp_path / traceability.ROWS).write_text(text)
    shutil.copy(ROOT / "harness/adapters/onnxruntime_session.py", tmp_path / "harness/adapters")
    monkeypatch.setattr(traceability, "checkout_root", lambda: tmp_path)
    return tmp_path


def test_marks_are_read_from_functions_classes_and_modules(checkout: Path) -> None:
    (checkout / "suites/meta/test_x.py").write_text(SUITE)
    one, two = marked(checkout)
    assert (one.id, one.rows) == ("suites/meta/test_x.py::test_one", ("M2", "M1", "M3"))
    assert (two.id, two.rows) == ("suites/meta/test_x.py::TestTwo::test_two", ("M2", "M4"))
    # pytest and detectron2 by name, ONNX Runtime through the adapter
    assert {"pytest", "detectron2", "onnxruntime"} <= one.uses
    assert "openvino" not in one.uses


def test_a_changed_mark_makes_the_page_out_of_date(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write"]) == 0
    assert main([]) == 0
    (checkout / "suites/meta/test_x.py").write_text(SUITE)
    assert main([]) == 1
    assert "out of date" in capsys.readouterr().err


def test_a_done_row_without_a_passing_test_on_the_real_component_is_a_problem() -> None:
    assert problems([ROW], [ON_IT], {ON_IT.id: PASSED}) == []
    claim = ["M1 is marked done, but no test that uses the store has passed"]
    assert problems([ROW], [], {}) == claim
    assert problems([ROW], [ON_IT], {}) == claim
    assert problems([ROW], [ON_IT], {ON_IT.id: Outcome("skipped")}) == claim
    assert problems([ROW], [ON_IT], {ON_IT.id: Outcome("failed")}) == claim
    assert problems([ROW], [BESIDE_IT], {BESIDE_IT.id: PASSED}) == claim


def test_a_cell_that_passed_counts_with_its_own_libraries_only() -> None:
    on_torchvision = Outcome("passed", (frozenset({"bentoml", "torchvision"}), frozenset({"openvino", "detectron2"})))
    on_detectron2 = Outcome("passed", (frozenset({"bentoml", "detectron2", "torch"}),))
    assert not BESIDE_IT.proves(ROW, on_torchvision)
    assert BESIDE_IT.proves(ROW, on_detectron2)


def test_a_mark_for_no_row_is_a_problem() -> None:
    stray = Covering("suites/meta/test_x.py::test_x", ("M99",), frozenset())
    assert problems([], [stray], {}) == ["suites/meta/test_x.py::test_x covers M99, which is no row"]


@pytest.mark.parametrize(
    ("inner", "said"), [("", "passed"), ("<skipped/>", "passed"), ("<failure/>", "failed"), ("<error/>", "failed")]
)
def test_the_worst_parameter_counts(tmp_path: Path, inner: str, said: str) -> None:
    path = tmp_path / "results.xml"
    path.write_text(JUNIT.format(inner))
    assert read_junit(path, [ON_IT]) == {ON_IT.id: Outcome(said)}


def test_recorded_outcomes_are_kept_until_the_test_is_gone(checkout: Path) -> None:
    (checkout / "suites/meta/test_x.py").write_text(SUITE.replace("test_one", "test_x"))
    (checkout / "results.xml").write_text(JUNIT.format(""))
    main(["--write", "--junit", str(checkout / "results.xml")])
    assert outcomes(checkout) == {"suites/meta/test_x.py::test_x": PASSED}
    assert "`suites/meta/test_x.py::test_x`: passed" in (checkout / traceability.PAGE).read_text()
    (checkout / "suites/meta/test_x.py").write_text(SUITE)
    main(["--write", "--junit", str(checkout / "results.xml")])
    assert outcomes(checkout) == {}


def test_a_cell_needs_its_backend_and_its_family() -> None:
    model = next(spec for spec in models().values() if spec.family == "torchvision")
    assert {"openvino", "torchvision"} <= libraries_of(f"test_x[{model.id}/openvino_ir[f32]@cpu]")
    assert "openvino_ir" in adapters()
    assert libraries_of("test_x[3-4]") == frozenset()
    assert libraries_of("test_x[no_model/openvino_ir[f32]@cpu]") == frozenset()


def test_the_page_says_where_a_test_passed_elsewhere_only() -> None:
    assert "passed, not on the real component" in page([ROW], [BESIDE_IT], {BESIDE_IT.id: PASSED})
    assert "not recorded" in page([ROW], [ON_IT], {})
