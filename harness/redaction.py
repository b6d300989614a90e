"""Errors without the folders of the machine they happened on: a page is published, and says nothing of anybody's home."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Some libraries print bold in their messages; a page has no use for it."""

_PROJECT = Path(__file__).resolve().parent.parent


def redacted(text: str, folders: Mapping[str, str]) -> str:
    """``text`` with the interpreter's, this project's and these folders (path: word) replaced by words, inner folders first.

    Terminal codes are left out.
    """
    known = {
        sysconfig.get_path("purelib"): "site-packages",
        sysconfig.get_path("platlib"): "site-packages",
        sysconfig.get_path("stdlib"): "python",
        str(_PROJECT): "detection-harness",
        **folders,
    }
    text = _TERMINAL_CODES.sub("", text)
    for folder in sorted(known, key=len, reverse=True):
        text = text.replace(folder, known[folder]) if len(folder) > 1 else text
    return text
