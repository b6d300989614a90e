"""The ledger of every Detectron2 architecture is complete, and recording it changes nothing."""

from __future__ import annotations

from pathlib import Path

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

pytest.importorskip("detectron2")

# Said by the libraries on import or by Detectron2's own calls; none is ours to mend.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.covers("M21"),
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

SHIPPED, ALL = ([spec for spec in specs.values() if spec.family == "detectron2"] for specs in (MODELS, SPECS))


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
    assert (ledger.proposals is None) == (not hasattr(module, "proposal_generator"))
    assert (ledger.keypoints is None) == (spec.task != "keypoints")


def test_an_architecture_of_somebody_elses_has_no_ledger() -> None:
    from detectron2.modeling.meta_arch.retinanet import RetinaNet

    from harness.families import detectron2_ledger

    class Other(RetinaNet):  # type: ignore[misc] # Detectron2 has no types
        def __init__(self) -> None:
            pass

    assert detectron2_ledger.record(Other(), lambda: None, (10, 10)) is None
