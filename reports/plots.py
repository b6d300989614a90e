"""Latency and batch curves of a run: one figure a model, and one for each kind of batching, never two kinds in one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from harness.document import CLIENTS, OF_MIXED_SIZES, CellLine, CurvePoint
from harness.journal import Run
from harness.reports.numerals import duration, figure
from harness.reports.svg import INK, QUIET, RULE, SERIES_COLOURS, TEXT_PX, Panel

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_MODELS = 12
"""Models with figures: nobody reads hundreds, and the scoreboard has the numbers of all."""

WIDTH, ROW, FOOT = 320.0, 36.0, 24.0
CURVE_HEIGHT, CURVE_LEFT, CURVE_TOP, CURVE_FOOT = 204.0, 34.0, 10.0, 38.0


@dataclass(frozen=True, slots=True)
class Series:
    """How one backend and variant is drawn wherever it appears; ``index`` counts from 0 in the order of the plan."""

    name: str
    index: int

    @property
    def colour(self) -> str:
        """The marking colour."""
        return SERIES_COLOURS[self.index % len(SERIES_COLOURS)]

    @property
    def marker(self) -> str:
        """The marker, as matplotlib names it."""
        return MARKERS[self.index % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure; ``description`` says all of it in words, for a reader who cannot see it."""

    title: str
    subtitle: str
    description: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Plots:
    """All figures of a page; ``legend`` pairs each series' name with its swatch; ``undrawn`` models have theirs in tables only.

    ``measured`` says whether what is drawn are processes, with their intervals, not the calls of one.
    """

    legend: tuple[tuple[str, Markup], ...]
    latency: tuple[Plot, ...]
    curves: tuple[Plot, ...]
    undrawn: int
    measured: bool


def plots(run: Run) -> Plots:
    """A latency figure a model, and a batch figure for each model and kind of batching."""
    names = dict.fromkeys(_name(line) for line in run.cells if line.predict_s or line.curve)
    series = {name: Series(name, index) for index, name in enumerate(names)}
    models: dict[str, list[CellLine]] = {}
    for line in run.cells:
        models.setdefault(f"{line.cell.model}@{line.cell.device}", []).append(line)
    drawn = list(models.items())[:MOST_MODELS]
    latency = [_latency(f"latency{n}", model, lines, series) for n, (model, lines) in enumerate(drawn)]
    kinds = [(model, lines, kind) for model, lines in drawn for kind in _kinds(lines)]
    curves = [_curve(f"curve{n}", model, lines, kind, series) for n, (model, lines, kind) in enumerate(kinds)]
    legend = tuple((s.name, _swatch(s)) for s in series.values()) if curves else ()
    return Plots(legend, tuple(plot for plot in latency if plot), tuple(curves), len(models) - len(drawn), _measured(run.cells))


def _measured(lines: Iterable[CellLine]) -> bool:
    return any(point.unit == "process" for line in lines for point in line.curve)


def _name(line: CellLine) -> str:
    return f"{line.cell.backend}[{line.cell.variant}]"


def _kinds(lines: Iterable[CellLine]) -> list[str]:
    """Kinds of batching that make a curve; those of one batch size only, where there is no other."""
    sizes: dict[str, set[int]] = {}
    for line in lines:
        for point in line.curve:
            sizes.setdefault(point.batching, set()).add(point.batch)
    return sorted(kind for kind in sizes if len(sizes[kind]) > 1) or sorted(sizes)


def _alone(curve: Iterable[CurvePoint], kind: str) -> dict[int, list[float]]:
    """Images a second at a size that ``kind`` has no point at, of another kind that has no other: told, never joined."""
    points = list(curve)
    taken = {point.batch for point in points if point.batching == kind}
    others = {point.batching for point in points if _same_sizes(point, kind)} - {kind}
    single = [one for one in others if len({p.batch for p in points if p.batching == one}) == 1]
    return {batch: rates for one in sorted(single) for batch, rates in _rates(points, one).items() if batch not in taken}


def _same_sizes(point: CurvePoint, kind: str) -> bool:
    """Whether both are of pictures of one size, or both of mixed sizes."""
    return point.batching.endswith(OF_MIXED_SIZES) == kind.endswith(OF_MIXED_SIZES)


def _drawable(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0


def _latency(key: str, model: str, lines: Sequence[CellLine], series: dict[str, Series]) -> Plot | None:
    """Every timed call as a dot and the median as a bar, one row a backend, on a logarithmic axis in ms."""
    timed = [(series[_name(c)], [1e3 * s for s in c.predict_s if _drawable(s)]) for c in lines if c.predict_s]
    timed = [(one, calls) for one, calls in timed if calls]
    if not timed:
        return None
    panel = Panel(WIDTH, FOOT + ROW * len(timed))
    low, high = min(min(c) for _, c in timed) / 1.2, max(max(c) for _, c in timed) * 1.2

    def x(milliseconds: float) -> float:
        return 4 + (WIDTH - 8) * math.log(milliseconds / low) / math.log(high / low)

    ticks = _ticks(low, high)
    panel.segments([(x(tick), FOOT - 4, x(tick), panel.height) for tick in ticks], color=RULE, lw=0.6)
    for tick in ticks:
        panel.text(x(tick), FOOT - 14, figure(tick), QUIET, "middle")
    for row, (one, calls) in enumerate(timed):
        y = panel.height - ROW * row - 24
        dots = [x(call) for call in calls]
        panel.line(dots, [y] * len(dots), ls="none", marker="o", ms=4.5, mew=0, alpha=0.35, color=one.colour)
        panel.line([x(median(calls))] * 2, [y - 8, y + 8], lw=2.4, color=one.colour, solid_capstyle="butt")
        panel.text(0, y + 12, one.name, QUIET)
        panel.text(WIDTH, y + 12, duration(median(calls) / 1e3), INK, "end")
    spoken = "; ".join(f"{one.name} {duration(median(calls) / 1e3)}" for one, calls in timed)
    counts = sorted({len(calls) for _, calls in timed})
    shown = " to ".join(figure(count) for count in dict.fromkeys((counts[0], counts[-1])))
    unit = "processes" if _measured(lines) else "calls"
    return Plot(model, f"{shown} {unit} a backend, ms", f"Median latency of one image: {spoken}.", panel.svg(key))


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the two; the powers alone where the span is wide, more steps where it is narrow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    finer = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(n / 10 for n in range(10, 100)))
    for steps in finer if high / low < 200 else ((1,), *finer):
        found = [tick for decade in decades for step in steps if low * 1.05 <= (tick := step * 10.0**decade) <= high / 1.05]
        if found:
            return found
    return []


def _curve(key: str, model: str, lines: Sequence[CellLine], kind: str, series: dict[str, Series]) -> Plot:
    """Images a second over the images in a call: the median as a line, slowest to fastest call, or the interval, as a bar.

    A single size that was not batched this way at all (one image is no batch) is a hollow mark that no line touches.
    """
    drawn = [(series[_name(line)], rates, _alone(line.curve, kind)) for line in lines if (rates := _rates(line.curve, kind))]
    reach = {_name(line): _intervals(line.curve, kind) for line in lines}
    panel = Panel(WIDTH, CURVE_HEIGHT)
    every = [point for _, *both in drawn for rates in both for point in rates.items()]
    batches = sorted({batch for batch, _ in every}) or [1]
    highest = [high for ends in reach.values() for _, high in ends.values()]
    top = max((*(max(rates) for _, rates in every), *highest), default=1.0) * 1.04
    span = math.log(batches[-1] / batches[0]) or 1.0

    def x(batch: int) -> float:
        return CURVE_LEFT + 12 + (WIDTH - CURVE_LEFT - 24) * math.log(batch / batches[0]) / span

    def y(rate: float) -> float:
        return CURVE_FOOT + 12 + (CURVE_HEIGHT - CURVE_FOOT - 12 - CURVE_TOP) * rate / top

    along = kind if kind == CLIENTS else "images a call"
    _frame(panel, [(x(batch), batch) for batch in batches], [(y(tick), tick) for tick in _even_ticks(top)], along)
    for one, rates, alone in drawn:
        ends = [(b, *reach[one.name].get(b, (min(m), max(m)))) for b, m in (*rates.items(), *alone.items())]
        spread = [(x(b), y(low), x(b), y(high)) for b, low, high in ends]
        panel.segments(spread, color=one.colour, lw=1.2, alpha=0.4)
        middles = [y(median(measured)) for measured in rates.values()]
        panel.line([x(b) for b in rates], middles, lw=1.6, marker=one.marker, ms=5.5, mew=0, color=one.colour)
        hollow = [y(median(measured)) for measured in alone.values()]
        style = {"marker": one.marker, "ms": 5.5, "mew": 1.2, "mfc": "none"}
        panel.line([x(b) for b in alone], hollow, ls="none", color=one.colour, **style)
    spoken = "; ".join(f"{one.name} {_spoken(rates)}{_spoken(alone, ', unbatched ')}" for one, rates, alone in drawn)
    return Plot(model, kind, f"Images a second by {along}, {kind}: {spoken or 'none'}.", panel.svg(key))


def _frame(panel: Panel, columns: Sequence[tuple[float, int]], rows: Sequence[tuple[float, float]], along: str) -> None:
    """Grid lines and the words on both axes; ``columns`` and ``rows`` pair a place with its figure, ``along`` names the columns."""
    panel.segments([(CURVE_LEFT, y, WIDTH, y) for y, _ in rows], color=RULE, lw=0.6)
    for y, tick in rows:
        panel.text(CURVE_LEFT - 5, y - 0.38 * TEXT_PX, figure(tick), QUIET, "end")
    for x, batch in columns:
        panel.text(x, CURVE_FOOT - 3 - 12, str(batch), QUIET, "middle")
    panel.text((CURVE_LEFT + WIDTH) / 2, 4, along, QUIET, "middle")


def _spoken(rates: dict[int, list[float]], before: str = "") -> str:
    told = ", ".join(f"{figure(median(measured))} at {batch}" for batch, measured in rates.items())
    return f"{before}{told}" if told else ""


def _rates(curve: Iterable[CurvePoint], kind: str) -> dict[int, list[float]]:
    """Images a second of each call, by batch, for one kind of batching."""
    rates: dict[int, list[float]] = {}
    for point in sorted((p for p in curve if p.batching == kind), key=lambda point: point.batch):
        measured = [point.batch / seconds for seconds in point.predict_s if _drawable(seconds)]
        if measured:
            rates[point.batch] = measured
    return rates


def _intervals(curve: Iterable[CurvePoint], kind: str) -> dict[int, tuple[float, float]]:
    """Images a second, low and high, of the interval over processes, by batch, where there is one; the kind's own before others."""
    points = sorted((point for point in curve if _same_sizes(point, kind)), key=lambda point: point.batching == kind)
    return {p.batch: (p.batch / p.interval_s[1], p.batch / p.interval_s[0]) for p in points if p.interval_s is not None}


def _even_ticks(top: float) -> list[float]:
    """0 and three to six even steps of 1, 2 or 5 times a power of ten."""
    scale = 10.0 ** math.floor(math.log10(top))
    steps = [scale * step for step in (0.1, 0.2, 0.5, 1, 2, 5)]
    step = next((small for small, _ in pairwise(steps) if top / small <= 6), steps[-1])
    return [step * n for n in range(int(top / step) + 1)]


def _swatch(series: Series) -> Markup:
    panel = Panel(30, 12)
    panel.line([1, 29], [6, 6], lw=1.6, color=series.colour)
    panel.line([15], [6], ls="none", marker=series.marker, ms=6, mew=0, color=series.colour)
    return panel.svg(f"swatch{series.index}")
