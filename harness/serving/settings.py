"""What a served detector is told, through the environment of the process that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.serving.pictures import LARGEST_PX

_PREFIX = "HARNESS_SERVE_"
_NAMES = ("tag", "token", "device", "largest_px", "threads", "mended", "mark", "batch", "latency_ms")
MARK = "HARNESS_SERVE_MARK"
"""In the environment of every process of one server: some of them leave its session and its process tree."""


LATENCY_MS = 60_000
"""BentoML's own default of ``max_latency_ms``: a request for which it expects to take longer it refuses with 503."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is served and how; ``home`` is the store's ``BENTOML_HOME``, ``token`` None lets everybody in.

    ``threads`` is how many the detector may use, 0 what its library chooses; ``mended`` concerns the legacy service alone;
    ``mark`` tells one server from all others, whoever starts it gives it. ``batch`` is how many requests that come together are
    answered in one call at most, 0 each alone; one that would wait longer than ``latency_ms`` is refused then. Raises
    what `checked_token` raises.
    """

    tag: str
    home: Path
    token: str | None = None
    device: str = "cpu"
    largest_px: int = LARGEST_PX
    threads: int = 0
    mended: bool = False
    mark: str = ""
    batch: int = 0
    latency_ms: int = LATENCY_MS

    def __post_init__(self) -> None:
        if self.token is not None:
            checked_token(self.token)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Read back what `environment` wrote.

        Raises `UsageError` where no tag is named, a number is none, or the token is there and empty.
        """
        told = {name: environment.get(_PREFIX + name.upper(), "") for name in _NAMES}
        if not told["tag"]:
            raise UsageError(f"{_PREFIX}TAG names no model", "Start the service with `harness serve TAG`.")
        return cls(
            told["tag"],
            Path(environment.get("BENTOML_HOME") or Path.home() / "bentoml"),
            environment.get(f"{_PREFIX}TOKEN"),
            told["device"] or "cpu",
            _number(environment, "largest_px", LARGEST_PX, at_least=1),
            _number(environment, "threads", 0, at_least=0),
            bool(told["mended"]),
            told["mark"],
            _number(environment, "batch", 0, at_least=0),
            _number(environment, "latency_ms", LATENCY_MS, at_least=1),
        )

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """The environment of the serving process: ``around``, and these settings in place of any that it holds."""
        told = {_PREFIX + name.upper(): str(value) for name in _NAMES if (value := getattr(self, name))}
        return {**without_settings(around), **told, "BENTOML_HOME": str(self.home)}


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what it says of a served detector."""
    return {name: value for name, value in environment.items() if not name.startswith(_PREFIX)}


def checked_token(token: str) -> str:
    """The token, if a client can send it. Raises `UsageError` for any that no header carries as it is: nobody could get in."""
    cure = "Take letters and digits, as `openssl rand -hex 16` gives them."
    if not token.strip():
        raise UsageError("the token is empty", "Give one, or none.")
    if token != token.strip():
        raise UsageError("the token begins or ends with a blank, which no request can send", cure)
    if not (token.isascii() and token.isprintable()):
        raise UsageError("the token has a character that is not printable ASCII, which no request can send safely", cure)
    return token


def _number(environment: Mapping[str, str], name: str, default: int, *, at_least: int) -> int:
    variable = _PREFIX + name.upper()
    text = environment.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= at_least):
        raise UsageError(f"{variable} is {text!r}", f"Give a whole number, {at_least} or more, or leave it out.")
    return int(text)
