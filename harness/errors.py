"""Every error a user can meet: what happened, what to do, and the exit code.

Exit codes of the command line: 0 passed, 1 findings, 2 usage, 3 internal error, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable


class HarnessError(Exception):
    """An error with a cure. ``str()`` is the whole message: what happened, then what to do."""

    exit_code = 3

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what}\n  {cure}" if cure else what)
        self.what = what
        self.cure = cure


def told(error: Exception) -> str:
    """What an error says: ours in its own words, any other with its type."""
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


class UsageError(HarnessError):
    """The request cannot be met as written."""

    exit_code = 2


class UnknownName(UsageError):
    """A backend, model, variant, device, deck or check that does not exist; the message lists those that do."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        from difflib import get_close_matches  # a quarter of what pytest's plugin costs everybody

        names = sorted(valid)
        close = get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}", f"{hint}Valid: {', '.join(names) or '(none)'}")


class MalformedDetections(HarnessError):
    """Arrays that are no detections: wrong dtype, shape or length."""


class WrongDigest(UsageError):
    """A file is not the one that was pinned."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(
            f"{path} has SHA-256 {found[:16]}..., expected {expected[:16]}...",
            "The file was changed or cut off; restore it (git checkout, or reinstall detection-harness).",
        )


class UnreadableConfig(UsageError):
    """The family cannot read this configuration."""


class Unavailable(HarnessError):
    """A library is not installed: its cells are declined."""


class Broken(HarnessError):
    """A library is installed but does not work: its cells are errored."""


class RunFolderError(UsageError):
    """The output folder cannot be used, or another run holds it."""


class InvalidRun(UsageError):
    """A file that should be a run is not one, or is damaged."""


class InvalidWaivers(UsageError):
    """A waiver file that cannot be read; the message names file and entry."""
