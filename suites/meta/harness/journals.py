"""What the tests of the journal draw from, and equality that NaN obeys too."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from harness.types import (
    Cell,
)

CELL = Cell("model", "backend", "variant", "cpu")

words = st.text(st.characters(codec="utf-8"), max_size=12)
seconds = st.floats(width=64)
cells = st.builds(Cell, words, words, words, words)


def plain(value: Any) -> Any:
    """The value in a form where NaN equals NaN bit for bit and arrays compare with their dtype and shape."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value).__name__, [plain(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, dict):
        return [(key, plain(entry)) for key, entry in value.items()]
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return repr(value)
