"""Does a saved, converted, served detector still answer as the original did, and how fast?

In a checkout the folders ``fixtures``, ``suites`` and ``reports`` stand beside this one; in the wheel they are inside it. Either
way they are imported as `harness.fixtures`, `harness.suites` and `harness.reports`.
"""

from pathlib import Path

__version__ = "0.1.0"

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "fixtures" / "models.py").is_file() and (_ROOT / "pyproject.toml").is_file():
    __path__.append(str(_ROOT))
