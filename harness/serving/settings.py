"""What a served detector is told, through the environment of the process that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.serving.pictures import LARGEST_PX

_PREFIX = "HARNESS_SERVE_"
_NAMES = ("tag", "token", "device", "largest_px", "threads", "mended")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is served and how; ``home`` is the store's ``BENTOML_HOME``, ``token`` None lets everybody in.

    ``threads`` is how many the detector may use, 0 what its library chooses; ``mended`` concerns the legacy service alone.
    """

    tag: str
    home: Path
    token: str | None = None
    device: str = "cpu"
    largest_px: int = LARGEST_PX
    threads: int = 0
    mended: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Read back what `variables` wrote. Raises `UsageError` where no tag is named."""
        told = {name: environment.get(_PREFIX + name.upper(), "") for name in _NAMES}
        if not told["tag"]:
            raise UsageError(f"{_PREFIX}TAG names no model", "Start the service with `harness serve TAG`.")
        home = Path(environment.get("BENTOML_HOME") or Path.home() / "bentoml")
        numbers = int(told["largest_px"] or LARGEST_PX), int(told["threads"] or 0)
        return cls(told["tag"], home, told["token"] or None, told["device"] or "cpu", *numbers, bool(told["mended"]))

    def variables(self) -> dict[str, str]:
        """As variables of the environment of the serving process."""
        told = {name: getattr(self, name) for name in _NAMES}
        return {"BENTOML_HOME": str(self.home), **{_PREFIX + name.upper(): str(value or "") for name, value in told.items()}}
