"""The ledger of every torchvision architecture is complete, and recording it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.fixtures.models import MODELS, SPECS
from harness.suites.meta.harness.families.recorded import (
    BLANK,
    PICTURES,
    assert_complete,
    assert_ties_certified,
    recorded,
    trained,
    untrained,
)
from harness.types import ModelSpec

pytest.importorskip("torchvision")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.covers("M21")]

SHIPPED, ALL = ([spec for spec in specs.values() if spec.family == "torchvision"] for specs in (MODELS, SPECS))


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda spec: spec.id)
def test_a_trained_detectors_ledger_is_complete_and_explains_its_ties(spec: ModelSpec, tmp_path: Path) -> None:
    module, config = trained(spec, tmp_path)
    ties = 0
    for picture in PICTURES:
        answer, ledger = recorded(spec, module, config, picture)
        assert len(answer)
        assert_complete(answer, ledger)
        ties += assert_ties_certified(answer, ledger)
    # A detector without proposals has some ten times fewer decisions that could be tied.
    assert ties or ledger.proposals is None
    answer, ledger = recorded(spec, module, config, BLANK)
    assert_complete(answer, ledger)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.id)
def test_an_untrained_detectors_ledger_is_complete(spec: ModelSpec) -> None:
    module, config = untrained(spec)
    answer, ledger = recorded(spec, module, config, PICTURES[1])
    assert len(answer)
    assert_complete(answer, ledger)
    assert (ledger.proposals is None) == (not hasattr(module, "rpn"))
    assert (ledger.keypoints is None) == (spec.task != "keypoints")


def test_an_architecture_of_somebody_elses_has_no_ledger() -> None:
    import torch

    from harness.families import torchvision_ledger

    assert torchvision_ledger.record(torch.nn.Identity(), lambda: None, (10, 10)) is None


def test_the_maxima_of_a_heatmap_that_tie() -> None:
    import torch

    from harness.families.recording import keypoint_ties

    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 2, 1] = maps[0, 0, 5, 6] = 4.0
    maps[0, 1, 2, 1], maps[0, 1, 5, 6] = 4.0, 3.99
    # At the size of the map nothing is interpolated; the middle keeps the box away from whole px.
    ties = keypoint_ties(maps, torch.tensor([[10.0, 20.0, 17.5, 27.5]]), (2.0, 1.0))
    assert (ties.detections.tolist(), ties.points.tolist()) == ([0], [0])
    np.testing.assert_allclose(ties.places_xy_px, [[(10 + 6.5 * 7.5 / 8) * 2.0, 20 + 5.5 * 7.5 / 8]])


def test_a_box_of_whole_pixels_has_its_heatmaps_read_at_both_sizes() -> None:
    import torch

    from harness.families.recording import keypoint_ties

    maps = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = keypoint_ties(maps, torch.tensor([[10.0, 20.0, 26.0, 36.5]]), (1.0, 1.0))
    between = keypoint_ties(maps, torch.tensor([[10.0, 20.0, 26.5, 36.5]]), (1.0, 1.0))
    assert (len(whole.points), len(between.points)) == (1, 0)
