"""Figures as a reader wants them: three significant digits, a unit, no false precision."""

from __future__ import annotations

import math
from collections.abc import Iterable


def figure(value: float | None) -> str:
    """A plain number: whole ones in full, others to three significant digits; a dash for None."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e9:
        text = f"{int(value):,}".replace(",", "\u202f")
    elif 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def level(value: float) -> str:
    """A number that somebody chose: as short as it was written, as far as three digits tell."""
    short = f"{value:.1g}" if value == float(f"{value:.1g}") else f"{value:.2g}"
    if not math.isfinite(value) or value == int(value) or value != float(short):
        return figure(value)
    mantissa, _, exponent = short.partition("e")
    return (f"{mantissa}e{int(exponent)}" if exponent else mantissa).replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as ms, s or min."""
    if seconds is None or not math.isfinite(seconds):
        return figure(seconds)
    if seconds < 1:
        return f"{figure(seconds * 1e3)}\u202fms"
    if seconds < 120:
        return f"{figure(seconds)}\u202fs"
    return f"{seconds / 60:.1f}\u202fmin"


def size(count: float | None) -> str:
    """Bytes as kB, MB or GB (powers of 1000)."""
    if count is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{figure(count / scale)}\u202f{unit}"
    return f"{figure(count)}\u202fB"


def ratio(value: float | None) -> str:
    """A factor."""
    return "–" if value is None else f"{value:.2f}×"


def counted(count: int, one: str, many: str = "") -> str:
    """``1 check`` or ``3 checks``."""
    return f"{figure(count)} {one if count == 1 else many or one + 's'}"


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    all_words = list(words)
    return " and ".join(filter(None, [", ".join(all_words[:-1]), *all_words[-1:]]))


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of those that are positive numbers; None where there is none."""
    logs = [math.log(v) for v in values if v is not None and v > 0 and math.isfinite(v)]
    return math.exp(sum(logs) / len(logs)) if logs else None
