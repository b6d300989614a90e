"""BentoML with its model store where we say, and telemetry off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENVIRONMENT = {"BENTOML_DO_NOT_TRACK": "True"}


@contextmanager
def bentoml_home(home: Path) -> Iterator[Path]:
    """BentoML with its store in ``home``; gives the folder of its models.

    ``BENTOML_HOME`` does for a process that imports BentoML only now. One that holds a store already (a second artifact) is
    pointed to this one as BentoML's own tests do it: the library has no public way.
    """
    before = {name: os.environ.get(name) for name in ("BENTOML_HOME", *_ENVIRONMENT)}
    os.environ.update({"BENTOML_HOME": str(home), **_ENVIRONMENT})
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models = home / "models"
    models.mkdir(exist_ok=True)
    try:
        BentoMLContainer.model_store.set(ModelStore(models))
        yield models
    finally:
        BentoMLContainer.model_store.reset()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
