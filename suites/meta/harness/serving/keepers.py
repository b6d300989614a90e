"""Routes into a model store, each alike, for processes that are killed, run out of room or write at once while they save.

``python -m harness.suites.meta.harness.serving.keepers HOME KEEPER ATTACK`` makes a model and a store in ``HOME`` and lets one
attack loose on it; what happened is printed as one line of JSON each.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

KILLS = 40
WRITERS = 6
SAVES = 6
"""By each writer under a tag of its own choice, and as many under versions that all ask for."""

BYSTANDER = "bystander:v1"
"""An entry that is there before."""

LIMITS = (1_000, 100_000, 500_000)
"""Bytes that a file may grow to: the tensors do not fit, then the copy of them, then a small file."""


class Keeper(Protocol):
    """One route: ``taken`` and ``full`` are what it raises for a version that is there and for a full disk."""

    model_id: str
    taken: type[Exception]
    full: tuple[type[Exception], ...]

    def __init__(self, home: Path) -> None: ...

    def save(self, tag: str, model: Any) -> str:
        """The full tag of the new entry."""

    def load(self, tag: str) -> None:
        """Open an entry whole; raises where it cannot be."""

    def tags(self) -> list[str]:
        """Every entry that can be used."""


class Plain:
    """The harness's own."""

    model_id = "tv_ssdlite_tiny"

    def __init__(self, home: Path) -> None:
        from harness.serving.store import PlainStore, StoreFull, TagTaken

        self.taken: type[Exception] = TagTaken
        self.full: tuple[type[Exception], ...] = (StoreFull,)
        self.store = PlainStore(home)

    def save(self, tag: str, model: Any) -> str:
        return str(self.store.save(tag, model))

    def load(self, tag: str) -> None:
        self.store.get(tag).load()

    def tags(self) -> list[str]:
        listed = self.store.list()
        assert not [found.damage for found in listed if found.damage]
        return [str(found.tag) for found in listed]


class _Librarys:
    """What every route of BentoML's has in common: `bentoml.models.create` behind it."""

    def __init__(self, home: Path) -> None:
        os.environ.update({"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"})
        import bentoml
        from bentoml._internal.configuration.containers import BentoMLContainer
        from bentoml._internal.models import ModelStore

        self.bentoml = bentoml
        self.models = home / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        # For the process of a test, which may hold another store by now.
        self.store = ModelStore(self.models)
        BentoMLContainer.model_store.set(self.store)
        self.taken: type[Exception] = bentoml.exceptions.BentoMLException
        # PyTorch's writer says it in words of its own.
        self.full: tuple[type[Exception], ...] = (OSError, RuntimeError)

    def tags(self) -> list[str]:
        return sorted(str(found.tag) for found in self.store.list())


class Pytorch(_Librarys):
    """`bentoml.pytorch`, opened as its own loader would if it said that the pickle is trusted."""

    model_id = "tv_ssdlite_tiny"

    def save(self, tag: str, model: Any) -> str:
        return str(self.bentoml.pytorch.save_model(tag, model.module).tag)

    def load(self, tag: str) -> None:
        import torch

        torch.load(self.store.get(tag).path_of("saved_model.pt"), weights_only=False)


class Detectron(_Librarys):
    """`bentoml.detectron`, a module with its configuration."""

    model_id = "d2_retinanet_tiny"

    def save(self, tag: str, model: Any) -> str:
        config = model.config.clone()
        config.defrost()
        return str(self.bentoml.detectron.save_model(tag, model.module, config=config).tag)

    def load(self, tag: str) -> None:
        self.bentoml.detectron.load_model(self.store.get(tag))


KEEPERS: dict[str, type[Keeper]] = {"plain": Plain, "bentoml.pytorch": Pytorch, "bentoml.detectron": Detectron}


def kills(keeper: Keeper, model: Any) -> None:
    """Save in a child that is killed after a share of what the first save took, again and again; tells what that one saved."""

    def forked() -> int:
        child = os.fork()
        if child == 0:
            keeper.save("killed", model)
            os._exit(0)
        return child

    began = time.monotonic()
    os.waitpid(forked(), 0)
    whole_s = time.monotonic() - began
    tell([tag for tag in keeper.tags() if tag != BYSTANDER])
    for moment in range(KILLS):
        child = forked()
        time.sleep(whole_s * moment / KILLS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def writers(keeper: Keeper, model: Any) -> None:
    """Several processes save and read one name at once.

    Each tells the tags that it made, those of the versions all asked for that it got, how many of these it was refused, and what
    else was raised.
    """

    def work() -> None:
        made, won, refused, raised = [], [], 0, []
        for index in range(SAVES):
            try:
                made.append(keeper.save("shared", model))
                keeper.load("shared")
            except Exception as error:  # noqa: BLE001 - a library may raise anything; it is told
                raised.append(f"{type(error).__name__}: {error}")
            try:
                won.append(keeper.save(f"once:v{index}", model))
            except Exception as error:  # noqa: BLE001 - the same
                if isinstance(error, keeper.taken) and "already" in str(error):
                    refused += 1
                else:
                    raised.append(f"{type(error).__name__}: {error}")
        tell([made, won, refused, raised])

    children = []
    for _ in range(WRITERS):
        children.append(os.fork())
        if children[-1] == 0:
            work()
            os._exit(0)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def limits(keeper: Keeper, model: Any) -> None:
    """Save while files may not grow beyond so many bytes; tells what was raised."""
    for limit in LIMITS:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            keeper.save("full", model)
        except keeper.full as error:
            tell(f"{type(error).__name__}: {error}")


ATTACKS: dict[str, Callable[[Keeper, Any], None]] = {attack.__name__: attack for attack in (kills, writers, limits)}


def tell(what: Any) -> None:
    # One call, so that lines of several processes stay whole.
    os.write(1, (json.dumps(what) + "\n").encode())


def attacked(home: Path, keeper: str, attack: Callable[[Keeper, Any], None]) -> list[Any]:
    """Let the attack loose in a process of its own; what it told."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, str(home), keeper, attack.__name__],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(home: Path, keeper: str, attack: str) -> None:
    import numpy as np
    import torch

    from harness.families import family
    from harness.fixtures.models import MODELS

    # A process that was forked from one whose threads compute would hang in its first tensor.
    torch.set_num_threads(1)
    kept = KEEPERS[keeper](home)
    spec = MODELS[kept.model_id]
    kind = family(spec.family)
    source = home.parent / "source"
    source.mkdir(parents=True, exist_ok=True)
    model = kind.build(spec, kind.materialise(spec, source), np.zeros((96, 96, 3), np.uint8))
    kept.save(BYSTANDER, model)
    ATTACKS[attack](kept, model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
