"""Words of a run as HTML: escaped first, whatever they are, then set."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

BREAKS = re.compile(r"(?<=[/_:])(?=\w)|(?=[\[@])")
CODE = re.compile(r"`([^`]+)`")


def name(words: object) -> Markup:
    """An identifier that may break after a slash or underscore and before a bracket, so that it fits a phone."""
    parts = BREAKS.split(str(words))
    return Markup("<wbr>").join(escape(part) for part in parts)


def prose(words: object) -> Markup:
    """A sentence; what stands between backticks is set as code."""
    parts = CODE.split(str(words))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


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
