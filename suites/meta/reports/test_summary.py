"""The verdict is worded in one place, and reads the same on page, terminal and CI."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from harness.document import Notice
from harness.journal import Run
from harness.reports.page import render_page
from harness.reports.scoreboard import scoreboard
from harness.reports.summary import findings, json_summary, markdown_summary, text_summary, verdict, verdict_line
from harness.suites.meta.reports import invented
from harness.suites.meta.reports.test_page import HOSTILE, hostile_run
from harness.types import Cell, Record, Status


def with_statuses(*statuses: Status) -> Run:
    """One verdict of each status, on cells of their own."""
    cells = [Cell("model", f"backend{n}", "base", "cpu") for n in range(len(statuses))]
    planned = [("a.b", cell) for cell in cells]
    records = tuple(Record("a.b", cell, s, f"Because of {s}.", 1) for cell, s in zip(cells, statuses, strict=True))
    head = invented.header((), planned).model_copy(update={"notices": ()})
    return Run(head, (), records, (), invented.run(()).footer)


def test_only_a_finished_run_without_trouble_holds() -> None:
    for status in Status:
        told = verdict(with_statuses(Status.PASSED, status))
        assert told.holds == (status not in (Status.FAILED, Status.ERRORED, Status.MISSING)), status
    assert not verdict(with_statuses(Status.DECLINED)).holds
    assert not verdict(with_statuses()).holds
    assert not verdict(replace(with_statuses(Status.PASSED), footer=None)).holds


def test_the_headline_counts_what_went_wrong() -> None:
    told = verdict(with_statuses(Status.PASSED, Status.FAILED, Status.ERRORED, Status.MISSING, Status.MISSING))
    assert told.headline == "Of 5 verdicts, 1 failed, 1 errored and 2 are missing, on 4 of 5 cells."
    assert "1 is missing" in verdict(with_statuses(Status.MISSING)).headline


def test_the_headline_of_a_run_that_holds_names_its_exceptions() -> None:
    told = verdict(with_statuses(Status.PASSED, Status.WAIVED, Status.WAIVED, Status.INCONCLUSIVE))
    holds = "Every backend that was checked answers as it must, save 1 known divergence (2 verdicts): 1 check passed."
    assert told.headline == f"{holds} 1 verdict could not be settled."


def test_a_reason_of_pages_is_cut_in_a_terminal_alone() -> None:
    run = with_statuses(Status.ERRORED)
    endless = replace(run, records=(replace(run.records[0], reason="It broke. " + "Then more words. " * 200 + "The end."),))
    told = text_summary(endless)
    assert "It broke. Then more" in told
    assert " ..." in told
    assert max(map(len, told.splitlines())) < 600
    assert "The end." in json.dumps(json_summary(endless))
    assert "The end." in render_page(endless)


def test_verdicts_with_one_cause_are_one_finding() -> None:
    run = invented.run()
    found = findings(run, Status.ERRORED)
    assert [(f.subject, f.what, len(f.records)) for f in found] == [
        ("d2_maskrcnn_tiny/onnxruntime_session[torchscript]@cpu", "5 checks", 5)
    ]


def test_a_stale_waiver_is_named() -> None:
    run = with_statuses(Status.PASSED)
    stale = replace(run, records=(replace(run.records[0], waiver="old-one"),))
    assert "The waiver old-one is stale: a.b passes on model/backend0[base]@cpu. Remove it." in verdict(stale).asides


def test_a_waiver_that_is_stale_in_many_places_is_one_line() -> None:
    run = with_statuses(Status.PASSED)
    (first,) = run.records
    seconds = [replace(first, check="a.c", waiver="old-one"), replace(first, check="a.d", waiver="old-one")]
    asides = verdict(replace(run, records=(replace(first, waiver="old-one"), *seconds))).asides
    lines = [line for line in asides if "old-one" in line]
    assert lines == ["The waiver old-one is stale: a.b passes on model/backend0[base]@cpu (and 2 more). Remove it."]
    waived = replace(first, check="a.e", status=Status.WAIVED, waiver="old-one")
    asides = verdict(replace(run, records=(replace(first, waiver="old-one"), waived))).asides
    assert any(line.endswith("a.b passes on model/backend0[base]@cpu. Take what passes out of it.") for line in asides)


def test_what_was_left_out_is_told_with_its_cure() -> None:
    run = with_statuses(Status.PASSED)
    absent = Notice(subject="Detectron2", state="not checked", reason="not installed", cure="Install: see docs.")
    told = replace(run, header=run.header.model_copy(update={"notices": (absent,)}))
    assert "Detectron2 not checked: not installed. Install: see docs." in text_summary(told)


def test_many_inconclusive_timings_are_one_line() -> None:
    told = verdict(with_statuses(*[Status.INCONCLUSIVE] * 5)).asides
    assert [aside for aside in told if aside.startswith("Inconclusive")] == ["Inconclusive: a.b on 5 cells."]


def test_all_summaries_say_the_same() -> None:
    run = invented.run()
    headline = verdict(run).headline
    parsed = json.loads(json.dumps(json_summary(run)))
    assert headline in text_summary(run)
    assert headline in verdict_line(run)
    assert headline in markdown_summary(run)
    assert headline in render_page(run)
    assert parsed["headline"] == headline
    assert parsed["counts"] == {str(status): count for status, count in run.counts.items()}
    assert sum(len(finding["checks"]) * len(finding["cells"]) for finding in parsed["findings"]) == 7
    for told in (text_summary(run), markdown_summary(run), verdict_line(run)):
        assert "369 passed, 2 failed, 5 errored, 29 declined, 2 waived, 1 inconclusive, 0 missing" in told


def test_each_failure_comes_with_its_command() -> None:
    run = invented.run()
    for record in run.records:
        if record.status is Status.FAILED:
            assert f"$ {record.reproduce}" in text_summary(run)


def test_many_findings_are_cut_short_and_counted() -> None:
    told = text_summary(with_statuses(*[Status.FAILED] * 60))
    assert told.count("FAILED") == 50
    assert "and 10 more findings, on the page" in told


def test_names_cannot_repaint_a_terminal_or_write_markdown() -> None:
    for words in HOSTILE:
        run = hostile_run(words)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text_summary(run))
        assert "<" not in markdown_summary(run)
    table = markdown_summary(hostile_run("a|b`c")).splitlines()
    assert all(line.replace("\\|", "").count("|") == 9 for line in table if line.startswith("|"))


def test_a_ratio_is_to_the_reference_of_the_same_model() -> None:
    run = invented.run(invented.MODELS[:2])
    lines = tuple(
        line.model_copy(update={"predict_s": (seconds,) if line.cell.backend in ("torch_eager", "openvino_ir") else ()})
        for line, seconds in zip(run.cells, [4.0, 0, 0, 0, 1.0, 0, 9.0, 0, 0, 0, 1.0, 0], strict=True)
    )
    scores = {score.name: score for score in scoreboard(replace(run, cells=lines)).backends}
    candidate = scores["openvino_ir[f32]@cpu"]
    assert candidate.to_reference is not None
    assert abs(candidate.to_reference - 1 / 6) < 1e-12
    assert (candidate.latency_s, candidate.timed) == (1.0, 2)
    assert scores["bentoml_store[module]@cpu"].to_reference is None
