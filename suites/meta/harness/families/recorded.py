"""What the tests of both families' recorders ask: a live model recorded, its ledger replayed, its answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.checks.differences import unequal
from harness.compare import compare
from harness.detections import Detections, Pixels
from harness.families import family
from harness.fixtures.scenes import SceneRecipe, draw
from harness.ledger import Ledger
from harness.suites.meta.harness.ledgers import LIMITS, contest, replayed
from harness.suites.meta.harness.ledgers import answer as answered
from harness.types import ModelSpec

PICTURES = tuple(draw(SceneRecipe(h, w, (8, 14), (10, 50), seed=h)).pixels for h, w in ((160, 192), (171, 113), (75, 99)))
BLANK = np.full((100, 140, 3), 90, np.uint8)
"""Scenes of the network's own size, shrunk and stretched, and a picture of nothing."""


def trained(spec: ModelSpec, folder: Path) -> tuple[Any, Any]:
    """The shipped detector and its configuration."""
    kind = family(spec.family)
    model = kind.build(spec, kind.materialise(spec, folder), PICTURES[0])
    return model.module, model.config


def untrained(spec: ModelSpec) -> tuple[Any, Any]:
    """The detector with random weights; one without proposals answers from a score at which such weights do."""
    import torch

    torch.manual_seed(3)
    module, config = family(spec.family).construct(spec)
    for name in ("score_thresh", "test_score_thresh"):
        if hasattr(module, name):
            setattr(module, name, 0.009)
    if spec.config.get("architecture", "").startswith("ssd"):
        # Its scores would all but tie, in thousands, and so would nearly all of them be recorded.
        with torch.no_grad():
            for weights in module.head.classification_head.parameters():
                weights.mul_(10)
    return module.eval(), config


def recorded(spec: ModelSpec, module: Any, config: Any, picture: Pixels) -> tuple[Detections, Ledger]:
    """The answer to a picture and its ledger; recording changes neither the module nor what it answers."""
    kind = family(spec.family)
    methods = {name: vars(part).keys() for name, part in module.named_modules()}
    before = kind.predict(module, config, [picture])[0]
    during = []

    class Remembering(type(kind)):  # type: ignore[misc] # the family's own class
        def predict(self, *given: Any) -> list[Detections]:
            during.append(super().predict(*given)[0])
            return during

    ledger = Remembering().ledger(module, config, picture)
    assert ledger is not None
    assert not unequal(before, during[0])
    assert not unequal(before, kind.predict(module, config, [picture])[0])
    assert {name: vars(part).keys() for name, part in module.named_modules()} == methods
    return before, ledger


def assert_complete(answer: Detections, ledger: Ledger) -> None:
    """Replayed, the ledger gives the answer: the same set, in scores and classes to the bit, in boxes up to the scaling."""
    found = compare({"a": answer}, {"a": answered(ledger)}, LIMITS, outputs=())
    assert (found.missing, found.extra) == (0, 0)
    assert (found.worst("score"), found.worst("class_differs")) == (0, 0)
    assert found.worst("box_px") <= 1e-3


def assert_ties_certified(answer: Detections, ledger: Ledger) -> int:
    """Every tie of proposals and of detections that changes the answer is certified when it falls the other way: how many."""
    found = 0
    everything = np.ones(len(ledger.detections), np.bool_)
    undecided = contest(ledger).undecided(everything, everything)
    flips: list[dict[str, Any]] = [{"ties": [tie]} for tie in contest(ledger).ties(everything, undecided)]
    if ledger.proposals is not None:
        whole = np.ones(len(ledger.proposals), np.bool_)
        proposed = contest(ledger, "proposals")
        flips += [{"of_proposals": [tie]} for tie in proposed.ties(whole, proposed.undecided(whole, whole))]
    before = set(replayed(ledger).tolist())
    for flip in flips:
        rows = replayed(ledger, **flip)
        if set(rows.tolist()) == before:
            continue
        compared = compare({"a": answer}, {"a": answered(ledger, rows)}, LIMITS, outputs=(), ledgers={"a": ledger})
        assert compared.unexplained == 0
        assert compared.worst("class_differs") == 0
        assert compared.worst("score") <= LIMITS.score_tolerance
        assert compared.certified
        found += 1
    return found
