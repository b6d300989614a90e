"""The job that builds: an artifact from the live model, opened again, saved once more, and through the store's own archives."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, told
from harness.orders import Order, Stage, adapter_of, answer_all, described, emptied, opened, perturbed_model, prepare_runtime
from harness.redaction import redacted
from harness.types import Observation

if TYPE_CHECKING:
    from harness.families import Model
    from harness.sessions import Detector
    from harness.types import Restoration


def build(order: Order, stage: Stage) -> Observation:
    """Build the artifact, and look at what comes back of it in this process."""
    from harness.adapters import Keeping
    from harness.digests import restoration, tree_bytes, tree_sha256
    from harness.families import family

    stage.enter("import")
    prepare_runtime(order)
    adapter = adapter_of(order)
    kind = family(order.spec.family)
    stage.enter("build model")
    model = perturbed_model(order)

    def state() -> Restoration:
        return restoration(model.module, kind.config_text(model.config), model.attached)

    before = state()
    stage.enter("build")
    artifact = emptied(Path(order.artifact))
    began = time.monotonic()
    adapter.build(model, order.variant, artifact)
    build_s = time.monotonic() - began
    observation = Observation(
        order.job,
        build_s=build_s,
        source=before,
        source_after=state(),
        artifact_bytes=tree_bytes(artifact),
        artifact_sha256=tree_sha256(artifact),
        keeps=tuple(sorted(adapter.keeps(order.variant))) if isinstance(adapter, Keeping) else (),
    )
    try:
        return dataclasses.replace(observation, **_reopened(order, stage, adapter, model, artifact))
    except Exception as error:  # noqa: BLE001 - the artifact is there: what follows may still open it in a fresh process
        return dataclasses.replace(observation, error=described(error, stage.name, order))


def _reopened(order: Order, stage: Stage, adapter: Any, model: Model, artifact: Path) -> dict[str, Any]:
    """Open the artifact in the process that made it, save what came back, and open that; nothing for backends without an object."""
    from harness.digests import restoration
    from harness.perturb import perturb

    stage.enter("open again in the same process")
    with opened(order, artifact) as detector:
        back = detector.restored
        if back is None:
            restored = _asked(detector, order, stage) if _endings(adapter, order) else detector.restoration()
            traced = restoration(model.graph.module, None, {}) if restored is not None and restored.tensors else None
            return {"restored": restored, "traced": traced, "archived": _archived(order, stage, adapter, artifact)}
        answers = answer_all(detector, order, stage)
        restored = detector.restoration()
        stage.enter("save what was loaded")
        config = model.config if back.config is None else back.config
        again = dataclasses.replace(model, module=back.module, config=config, native={**model.native, **back.native})
        second = emptied(Path(order.scratch) / "resaved")
        # Other weights than the first time, and these again afterwards: whatever keeps the first object gives itself away.
        held = {name: tensor.detach().clone() for name, tensor in _tensors(back.module)}
        with suppress(HarnessError):
            # A module that came back without a number to change (whole numbers alone) is saved as it is.
            perturb(back.module, order.seed + 1)
        # And in training mode, as whoever saves between two epochs has it: what comes back is asked to answer.
        modes = {part: part.training for part in back.module.modules()}
        back.module.train()
        rechanged = detector.restoration()
        adapter.build(again, order.variant, second)
        rechanged_after = detector.restoration()
        for name, tensor in _tensors(back.module):
            tensor.data.copy_(held[name])
        for part, training in modes.items():
            part.training = training
    stage.enter("open what was saved again")
    with opened(order, second) as detector:
        resaved = detector.restoration()
    archived = _archived(order, stage, adapter, artifact)
    return {
        "answers": answers,
        "restored": restored,
        "rechanged": rechanged,
        "rechanged_after": rechanged_after,
        "resaved": resaved,
        "archived": archived,
    }


def _tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _endings(adapter: Any, order: Order) -> tuple[str, ...]:
    from harness.adapters import Archiving

    return tuple(adapter.archives(order.variant)) if isinstance(adapter, Archiving) else ()


def _asked(detector: Detector, order: Order, stage: Stage) -> Restoration | None:
    """What came back; of a graph, whose tensors say little or are not to be had, with the digests of what it answers."""
    from harness.digests import answer_sha256

    restored = detector.restoration()
    if restored is None or restored.live:
        return restored
    answers = {image: answer_sha256(answer) for image, answer in answer_all(detector, order, stage).items()}
    return dataclasses.replace(restored, answers=answers)


def _archived(order: Order, stage: Stage, adapter: Any, artifact: Path) -> dict[str, Restoration | str]:
    """By ending: the artifact exported, imported and opened, or what was said. Equal files are opened once."""
    from harness.digests import tree_sha256

    found: dict[str, Restoration | str] = {}
    seen: dict[str, Restoration] = {}
    for ending in _endings(adapter, order):
        stage.enter(f"export and import {ending}")
        archive = emptied(Path(order.scratch) / "exported") / f"archive{ending}"
        taken = emptied(Path(order.scratch) / "taken")
        try:
            adapter.export(artifact, order.variant, archive)
            adapter.take(archive, order.variant, taken)
            content = tree_sha256(taken)
            if content not in seen:
                with opened(order, taken) as detector:
                    restored = _asked(detector, order, stage)
                if restored is None:
                    continue
                seen[content] = restored
            found[ending] = seen[content]
        except Exception as error:  # noqa: BLE001 - what an archive does is judged by its own check
            found[ending] = redacted(told(error), order.folders)[:600]
    return found
