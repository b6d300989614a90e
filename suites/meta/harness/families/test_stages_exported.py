"""Every stage of every architecture goes by itself through every graph route, or is known not to."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.fixtures.models import MODELS
from harness.registry import load_adapter
from harness.stages.bisect import Candidate, stage_reports
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS
from harness.suites.meta.harness.families.living import NATIVE, live, scene

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.covers("M8", "M17"), *THEIR_WARNINGS]

ROUTES = {"onnxruntime_session[f32]": "onnx", "openvino_ir[f32]": "torch", "openvino_ir[onnx_f32]": "onnx"}
REFUSED = {("d2_keypointrcnn_tiny", "onnx"): ["keypoint decoding"]}
"""Stages that no file of this kind can hold: docs/findings.md, detectron2-keypoint-export."""


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model_id", MODELS)
def test_every_stage_can_be_asked(model_id: str, route: str, tmp_path: Path) -> None:
    name, _, variant_id = route.removesuffix("]").partition("[")
    for library in (adapter := load_adapter(name)).requires:
        pytest.importorskip(library)
    variant = next(one for one in adapter.variants if one.id == variant_id)
    candidate = Candidate(adapter, variant, live(model_id), "cpu")
    reports = list(stage_reports(candidate, {"native": scene(NATIVE)}, tmp_path / "none", tmp_path / "stages"))
    assert [report.stage for report in reports if report.error] == REFUSED.get((model_id, ROUTES[route]), [])
    # The picture that it was traced with: nothing that is wrong at other sizes shows. OpenVINO pads too far at any, where a model
    # pads at all.
    known = ["preprocess"] if route == "openvino_ir[f32]" and model_id.startswith("d2_") and "c4" not in model_id else []
    assert [report.stage for report in reports if report.differences] == known, [report.words for report in reports]
    assert all(report.compared for report in reports if not report.error)


def test_a_graph_of_two_pictures_is_taken_apart_for_one(tmp_path: Path) -> None:
    adapter = load_adapter("onnxruntime_session")
    for library in adapter.requires:
        pytest.importorskip(library)
    variant = next(one for one in adapter.variants if one.id == "pair_f32")
    candidate = Candidate(adapter, variant, live("tv_ssdlite_tiny"), "cpu")
    reports = list(stage_reports(candidate, {"native": scene(NATIVE)}, tmp_path / "none", tmp_path / "stages"))
    assert reports
    assert all(report.compared and not report.error and not report.differences for report in reports), reports
