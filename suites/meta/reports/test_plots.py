"""The figures show what was measured, keep kinds of batching apart, and are the same every time."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.document import OF_MIXED_SIZES, CurvePoint
from harness.reports.plots import MOST_MODELS, plots
from harness.reports.svg import MARKS, QUIET, Panel
from harness.suites.meta.reports import invented


def test_a_figure_a_model_and_one_for_each_kind_of_batching() -> None:
    drawn = plots(invented.run())
    assert [plot.title for plot in drawn.latency] == [f"{model}@cpu" for model in invented.MODELS]
    assert [plot.subtitle for plot in drawn.curves[:3]] == ["a loop", "one tensor", "requests in flight"]
    assert len(drawn.curves) == 15
    assert len(drawn.legend) == len(invented.BACKENDS)


def test_a_backend_looks_alike_in_every_figure() -> None:
    drawn = plots(invented.run())
    colours = {re.findall(r"stroke-(series\d)", plot.svg)[0] for plot in drawn.curves if plot.subtitle == "requests in flight"}
    assert len(colours) == 1


def test_the_words_give_the_medians() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    curve = (
        CurvePoint(batch=4, batching="a loop", predict_s=(0.1, 0.2, 0.4), warmup_calls=1),
        CurvePoint(batch=1, batching="a loop", predict_s=(0.05,), warmup_calls=1),
    )
    line = run.cells[0].model_copy(update={"predict_s": (0.010, 0.030, 0.020), "curve": curve})
    drawn = plots(replace(run, cells=(line,)))
    assert drawn.latency[0].description == "Median latency of one image: torch_eager[plain] 20\u202fms."
    assert drawn.curves[0].description == "Images a second by images a call, a loop: torch_eager[plain] 20 at 1, 20 at 4."


def test_times_that_are_no_times_are_left_out() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    bad = (float("nan"), float("inf"), 0.0, -1.0)
    curve = (CurvePoint(batch=1, batching="a loop", predict_s=bad, warmup_calls=0),)
    line = run.cells[0].model_copy(update={"predict_s": bad, "curve": curve})
    drawn = plots(replace(run, cells=(line,)))
    assert drawn.latency == ()
    assert drawn.curves[0].description.endswith("a loop: none.")


def test_a_cell_that_was_not_timed_is_left_out_of_its_model_s_figures() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    cells = (run.cells[0].model_copy(update={"predict_s": (), "curve": ()}), *run.cells[1:])
    drawn = plots(replace(run, cells=cells))
    assert drawn.curves
    assert "torch_eager" not in "".join(plot.description for plot in (*drawn.latency, *drawn.curves))


def test_one_image_is_no_batch_and_is_never_joined_to_one() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    curve = tuple(
        CurvePoint(batch=batch, batching="one image" if batch == 1 else "a loop", predict_s=(0.1,), warmup_calls=0)
        for batch in (1, 2, 4)
    )
    (plot,) = plots(replace(run, cells=(run.cells[0].model_copy(update={"curve": curve}),))).curves
    assert plot.description == "Images a second by images a call, a loop: torch_eager[plain] 20 at 2, 40 at 4, unbatched 10 at 1."
    lines = re.findall(r'<path d="([^"]+)" fill="none" stroke-width="1.6"', plot.svg)
    assert [line.count("L") for line in lines] == [1]
    assert plot.svg.count("<use") == 3


def test_one_call_at_one_batch_is_drawn() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    curve = (CurvePoint(batch=1, batching="a loop", predict_s=(0.5,), warmup_calls=0),)
    drawn = plots(replace(run, cells=(run.cells[0].model_copy(update={"predict_s": (0.5,), "curve": curve}),)))
    assert "nan" not in drawn.curves[0].svg + drawn.latency[0].svg


def test_models_beyond_the_readable_are_counted() -> None:
    drawn = plots(invented.run(tuple(f"tv_{n}" for n in range(MOST_MODELS + 3))))
    assert (len(drawn.latency), drawn.undrawn) == (MOST_MODELS, 3)


def test_a_drawing_is_coloured_by_the_page_and_names_nothing_twice() -> None:
    drawn = plots(invented.run())
    figures = [*(plot.svg for plot in (*drawn.latency, *drawn.curves)), *(swatch for _, swatch in drawn.legend)]
    for svg in figures:
        assert "style=" not in svg
        assert "xmlns" not in svg
        assert not any(mark in svg for mark in MARKS)
        assert set(re.findall(r'href="#([\w-]+)"', svg)) <= set(re.findall(r'id="([\w-]+)"', svg))
    ids = re.findall(r'id="([\w-]+)"', "".join(figures))
    assert len(ids) == len(set(ids))


def test_words_are_drawn_as_they_are() -> None:
    panel = Panel(100, 20)
    panel.text(1, 1, "$x^2$ <b> & 検出 \x00\x1b", QUIET)
    svg = panel.svg("words")
    assert "$x^2$ &lt;b&gt; &amp; 検出 \ufffd\ufffd" in svg


def test_pictures_of_mixed_sizes_are_a_figure_apart() -> None:
    """Their single image is not that of the others, nor is its interval."""
    run = invented.run(("tv_maskrcnn_tiny",))
    curve = tuple(
        CurvePoint(batch=batch, batching=kind + end, predict_s=(batch / rate,), warmup_calls=0, unit="process")
        for end, ends in (("", (50, 80)), (OF_MIXED_SIZES, (30, 40)))
        for batch, kind, rate in ((1, "one image", ends[0]), (4, "a loop", ends[1]))
    )
    drawn = plots(replace(run, cells=(run.cells[0].model_copy(update={"curve": curve}),)))
    told = {plot.subtitle: plot.description for plot in drawn.curves}
    assert told["a loop"].endswith("torch_eager[plain] 80 at 4, unbatched 50 at 1.")
    assert told[f"a loop{OF_MIXED_SIZES}"].endswith("torch_eager[plain] 40 at 4, unbatched 30 at 1.")
