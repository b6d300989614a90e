"""matplotlib's SVG as a part of the page: static, the same bytes for the same figures, coloured by the page.

Figures are drawn with colours that only mark what a line is; `inline` turns those into classes (``stroke-ink``, ``fill-series3``),
so that light, dark and print each bring their own, and no style attribute is left for the page's Content-Security-Policy to refuse.
Drawing goes straight onto the figure, in points from the bottom left: matplotlib's axes cost more time a panel than all the rest
of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

SERIES = 8
"""Colours that can be told apart in both schemes; after these, markers tell series apart."""

MARKS = {"#010101": "ink", "#020202": "quiet", "#030303": "rule"} | {f"#0400{k:02d}": f"series{k}" for k in range(SERIES)}
INK, QUIET, RULE = tuple(MARKS)[:3]
SERIES_COLOURS = tuple(MARKS)[3:]
SETTINGS = {"svg.hashsalt": "detection-harness"}
TEXT_PX = 10.5

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What XML cannot hold, or nobody can read."""


class Panel:
    """An empty figure of a size in points; y points up."""

    def __init__(self, width_pt: float, height_pt: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width_pt, height_pt
        self._figure = Figure(figsize=(width_pt / 72, height_pt / 72), dpi=72)
        self._figure.patch.set_visible(False)
        self._words: list[tuple[str, dict[str, str]]] = []

    def line(self, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
        """A line, or markers alone where ``ls`` is none."""
        from matplotlib.lines import Line2D
        from matplotlib.transforms import IdentityTransform

        self._figure.add_artist(Line2D(xs, ys, transform=IdentityTransform(), clip_on=False, **style))

    def segments(self, ends: Iterable[tuple[float, float, float, float]], **style: Any) -> None:
        """Straight lines of one style from (x, y) to (x, y), drawn as one path: a path costs matplotlib far more than a segment."""
        gap = float("nan")
        points = [point for x0, y0, x1, y1 in ends for point in ((x0, y0), (x1, y1), (gap, gap))]
        if points:
            self.line([x for x, _ in points], [y for _, y in points], **style)

    def text(self, x: float, y: float, words: str, colour: str, anchor: str = "start") -> None:
        """Words from (``start``), around (``middle``) or up to (``end``) a place on their baseline, in the page's own font.

        The browser sets them; matplotlib would measure them in a font that the page does not use, at half of the cost of a drawing.
        """
        place = {"x": f"{x:.6g}", "y": f"{self.height - y:.6g}", "font-size": f"{TEXT_PX:g}"}
        place |= {"text-anchor": anchor, "class": f"fill-{MARKS[colour]}"}
        self._words.append((CONTROL.sub("\ufffd", words), place))

    def svg(self, key: str) -> Markup:
        """The drawing. ``key`` is unique in the page and keeps the names inside apart from another drawing's."""
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        stream = io.StringIO()
        with rc_context(SETTINGS):
            FigureCanvasSVG(self._figure).print_svg(stream, metadata={"Date": None})
        root = inline(stream.getvalue(), key)
        for words, place in self._words:
            ET.SubElement(root, "text", place).text = words
        return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped every text


def inline(svg: str, key: str) -> ET.Element:
    """A drawing of matplotlib's without style attributes, namespaces, and names that only its own file would need."""
    root = ET.fromstring(svg)  # noqa: S314 - written by matplotlib a moment ago
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    for element in list(root.iter()):
        element.tag = _local(element.tag)
        element.text = element.text if (element.text or "").strip() else None
        element.tail = None
        attributes, element.attrib = element.attrib, {}
        for name, value in attributes.items():
            _keep(element, _local(name), value, key, used)
    _prune(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true"}
    return root


def _keep(element: ET.Element, name: str, value: str, key: str, used: set[str]) -> None:
    match name:
        case "style":
            _classes(element, value)
        case "id" if value in used:
            element.set("id", f"{key}-{value}")
        case "href":
            element.set("href", f"#{key}-{value[1:]}")
        case "d":
            element.set("d", re.sub(r"\s+", " ", value).strip())
        case "transform" if not value.startswith("rotate(-0"):
            element.set(name, value)
        case "viewBox" | "x" | "y" | "cx" | "cy":
            element.set(name, value)
        case _:
            pass


def _classes(element: ET.Element, style: str) -> None:
    """Declarations become attributes; marking colours become classes."""
    classes = []
    for name, _, value in (part.strip().partition(":") for part in style.split(";") if part.strip()):
        told = value.strip()
        if name in ("stroke", "fill") and told in MARKS:
            classes.append(f"{name}-{MARKS[told]}")
        else:
            element.set(name, told)
    if classes:
        element.set("class", " ".join(classes))


def _prune(element: ET.Element) -> None:
    """Drop metadata, matplotlib's own style sheet and groups with nothing in them."""
    for child in list(element):
        _prune(child)
        if child.tag in ("metadata", "style") or (child.tag in ("g", "defs") and not len(child)):
            element.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
