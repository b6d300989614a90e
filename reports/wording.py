"""Words of a run as HTML: escaped first, whatever they are, then set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from markupsafe import Markup, escape

from harness.reports import numerals
from harness.types import Measure

BREAKS = re.compile(r"(?<=[/_:])(?=\w)|(?=[\[@])")
CODE = re.compile(r"`([^`]+)`")


@lru_cache(4096, typed=True)
def name(words: object) -> Markup:
    """An identifier that may break after a slash or underscore and before a bracket, so that it fits a phone."""
    parts = BREAKS.split(str(words))
    return Markup("<wbr>").join(escape(part) for part in parts)


def prose(words: object) -> Markup:
    """A sentence; what stands between backticks is set as code."""
    parts = CODE.split(str(words))
    if len(parts) == 1:
        return escape(parts[0])
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def figures(measures: Iterable[Measure]) -> Markup:
    """A record's figures in one line, each with its unit and its level."""
    told = []
    for measure in measures:
        value = escape(f"{measure.name} {numerals.figure(measure.value)} {measure.unit}".rstrip())
        level = "" if measure.level is None else f' <span class="sub">level {numerals.level(measure.level)}</span>'
        told.append(f"{value}{level}")
    return Markup("; ".join(told))  # noqa: S704 - what is the run's own is escaped above


def stopped(words: str) -> str:
    """With a full stop."""
    return words if not words or words.endswith((".", "!", "?", ":")) else f"{words}."


def sentence(words: str) -> str:
    """With a capital and a full stop; a first word that is an identifier stays as it is."""
    first = words.partition(" ")[0].rstrip(",;:")
    return stopped(words[:1].upper() + words[1:] if first.isalpha() and first.islower() else words)


def option(value: object) -> str:
    """The value of an option as it would be typed."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def moment(created: str) -> str:
    """A time in ISO 8601 and UTC without its letters."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?(\.\d+)?(Z|\+00:00)$", r"\1 \2 UTC", created)
