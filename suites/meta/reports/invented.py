"""Runs that nobody made, with everything a page must be able to show. Figures are invented; nothing here is a measurement."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from harness.document import (
    Answer,
    CellKey,
    CellLine,
    CheckEntry,
    CurvePoint,
    DeckEntry,
    EffectiveEntry,
    ErrorEntry,
    ExhibitLine,
    Footer,
    Header,
    ImageEntry,
    Level,
    Machine,
    ModelEntry,
    Notice,
    Pair,
    Planned,
    TestedVersions,
    WaiverEntry,
)
from harness.journal import Run, RunWriter
from harness.types import Cell, Measure, Record, Status

CLASSES = ("circle", "square", "triangle")
MODELS = ("d2_fasterrcnn_tiny", "d2_maskrcnn_tiny", "tv_fasterrcnn_tiny", "tv_maskrcnn_tiny", "tv_retinanet_tiny")
BACKENDS = (
    ("torch_eager", "plain", 19.0),
    ("detectron2_predictor", "plain", 20.5),
    ("bentoml_store", "module", 19.4),
    ("bentoml_store", "predictor", 20.9),
    ("openvino_ir", "f32", 6.7),
    ("onnxruntime_session", "torchscript", 6.5),
)
CHECKS = (
    ("contract.well_formed", "Answers are well formed"),
    ("contract.blank_image", "A blank picture gives nothing"),
    ("contract.unseen_sizes", "Sizes never seen at export"),
    ("contract.owned_outputs", "Outputs stay valid afterwards"),
    ("contract.channel_order", "Colour channels matter"),
    ("fidelity.opens", "Opens in a fresh process"),
    ("fidelity.only_carrier", "The artifact is the only carrier"),
    ("fidelity.weights", "Weights come back bit for bit"),
    ("fidelity.config", "Configuration comes back"),
    ("fidelity.mode", "Eval mode, nothing else changed"),
    ("fidelity.saved_again", "Saving what was loaded"),
    ("parity.precision", "The asked precision is the effective one"),
    ("parity.detections", "The same detections"),
    ("parity.scores", "The same scores"),
    ("parity.boxes", "The same boxes"),
    ("parity.masks", "The same masks"),
    ("throughput.batch_curve", "Batch curve"),
)


def cells(models: Sequence[str] = MODELS) -> list[Cell]:
    """The cells of an invented run: Detectron2's predictor only has its own models."""
    return [
        Cell(model, backend, variant, "cpu")
        for model in models
        for backend, variant, _ in BACKENDS
        if model.startswith("d2") or (variant != "predictor" and backend != "detectron2_predictor")
    ]


def record(check: str, cell: Cell) -> Record:  # noqa: PLR0911 - one return a case
    """A verdict of every kind somewhere in the matrix, the same one every time."""
    key, again = (check, cell.model, cell.backend), f"harness run --model {cell.model} --backend {cell.backend} --check {check}"
    measures = (Measure("worst box", 4.7e-5, 1e-2, "px"), Measure("worst score", 2.1e-6, 1e-4))
    if check == "parity.masks" and "mask" not in cell.model:
        return Record(check, cell, Status.DECLINED, "The model has no masks.")
    if check.startswith("fidelity") and cell.backend == "openvino_ir" and check.endswith(("config", "mode", "again")):
        return Record(check, cell, Status.DECLINED, "An IR keeps no Python object: there is nothing to compare with.")
    if key == ("parity.boxes", "tv_maskrcnn_tiny", "openvino_ir"):
        worse = (
            Measure("worst box", 0.317, 1.9e-2, "px"),
            Measure("p99 box", 0.021, None, "px"),
            Measure("floor", 5e-5, None, "px"),
        )
        reason = "37 of 412 boxes moved beyond their level, the worst by 0.317 px."
        stage = "pooler: 12 of 900 values of pooled differ"
        return Record(check, cell, Status.FAILED, reason, 412, worse, "scene_0013", None, again, stage)
    if key == ("contract.owned_outputs", "tv_retinanet_tiny", "onnxruntime_session"):
        reason = "The answer to the first picture changed after the second call: 11 of 14 boxes differ. The buffer is reused."
        return Record(check, cell, Status.FAILED, reason, 14, (Measure("boxes changed", 11, 0),), "scene_0000", None, again)
    if key[1:] == ("d2_maskrcnn_tiny", "onnxruntime_session") and check.startswith("parity"):
        reason = "Its parity job ended with signal 11 (segmentation fault) while it opened the artifact; peak memory 612 MB."
        return Record(check, cell, Status.ERRORED, reason, 0, (), None, None, again)
    if check == "fidelity.saved_again" and cell.backend == "bentoml_store" and cell.variant == "predictor":
        reason = "The predictor's custom objects come back without `config` when what was loaded is saved again."
        return Record(
            check, cell, Status.WAIVED, reason, 6, (Measure("differing keys", 1, 0),), None, "bentoml-predictor-config", again
        )
    if check == "throughput.batch_curve" and cell.backend == "torch_eager" and cell.model == "tv_retinanet_tiny":
        return Record(
            check, cell, Status.INCONCLUSIVE, "The last 3 windows spread by 1.31 (level 1.05): another job was running.", 40
        )
    return Record(check, cell, Status.PASSED, "Within every level.", 412, measures, "scene_0007")


def header(models: Sequence[str] = MODELS, planned: Sequence[tuple[str, Cell]] | None = None) -> Header:
    """The first line of an invented run."""
    asked = planned if planned is not None else [(check, cell) for cell in cells(models) for check, _ in CHECKS]
    images = tuple(ImageEntry(id=f"scene_{n:04d}", height_px=160, width_px=192, sha256=f"{n:064x}") for n in range(24))
    return Header(
        run="2026-11-20T09-12-44-7f3a",
        created="2026-11-20T09:12:44Z",
        command="harness run",
        reproduce="harness run --seed 7 --deck scenes-24",
        harness_version="0.1.0",
        commit="3f9c2ab71d04e8b65f1a",
        machine=Machine(
            cpu_model="Intel(R) Xeon(R) Platinum 8481C",
            cores=2,
            memory_bytes=8_323_383_296,
            os="Linux 6.1.0 x86_64",
            fingerprint="b1946ac92492",
        ),
        python="3.11.13",
        versions={
            "bentoml": "1.4.39",
            "detectron2": "0.6+02b5c4e",
            "numpy": "2.3.4",
            "onnx": "1.22.0",
            "onnxruntime": "1.31.0",
            "openvino": "2026.4.1",
            "torch": "2.15.0",
            "torchvision": "0.29.2",
        },
        tested_versions=TestedVersions(inside=False, differing=("numpy 2.3.4 (tested 2.3.3)",)),
        options={"quick": False, "threads": 2},
        models=tuple(_model(name) for name in models),
        deck=DeckEntry(id="scenes-24", sha256="9b" * 32, images=images),
        checks=tuple(CheckEntry(id=key, title=title, asks=f"{title}, on every picture of the deck.") for key, title in CHECKS),
        planned=tuple(Planned(check=check, cell=CellKey.of(cell)) for check, cell in asked),
        levels=(
            Level(quantity="matching", level="as sets, one to one, both directions"),
            Level(quantity="score", level="max(1e-4, 4F), never above 1e-3"),
            Level(quantity="box, side >= 8 px", level="max(1e-2 px, 1e-4 x side, 4F), never above 0.1 px"),
        ),
        method={
            "isolation": "a fresh process for each job, network cut by a namespace, source weights moved away",
            "perturbation": "every weight by about 1e-3 relative, seed 7, the reference included",
        },
        waivers=(
            WaiverEntry(
                id="bentoml-predictor-config",
                kind="upstream",
                reason="bentoml.detectron takes the config from a predictor only when it is saved the first time.",
                finding="docs/findings.md#bentoml-predictor-config",
                stage="save",
                expires="2027-05-01",
            ),
        ),
        notices=(
            Notice(
                subject="CUDA",
                state="not checked",
                reason="no GPU on this machine",
                cure="Run on a machine with one, or on another with --device cuda.",
            ),
        ),
    )


def _model(name: str) -> ModelEntry:
    return ModelEntry(
        id=name,
        family="detectron2" if name.startswith("d2") else "torchvision",
        task="segmentation" if "mask" in name else "detection",
        classes=CLASSES,
        score_threshold=0.05,
        weights_sha256="4e" * 32,
        average_precision={"box AP50": 0.962, "mask AP50": 0.931} if "mask" in name else {"box AP50": 0.957},
    )


def cell_line(cell: Cell, base_ms: float) -> CellLine:
    """Timings around ``base_ms`` milliseconds from a seeded generator."""
    noise = random.Random(str(cell))  # noqa: S311 - no secret, only the same figures every time
    batching = "one tensor" if cell.backend in ("torch_eager", "bentoml_store") else "a loop"
    curve = [
        CurvePoint(
            batch=batch,
            batching=batching,
            predict_s=tuple(base_ms / 1e3 * batch**0.9 * noise.uniform(0.97, 1.2) for _ in range(9)),
            warmup_calls=3,
        )
        for batch in (1, 2, 4, 8)
    ]
    if cell.backend == "openvino_ir":
        curve += [
            CurvePoint(batch=b, batching="requests in flight", predict_s=(base_ms / 1e3 * b**0.7,) * 9, warmup_calls=3)
            for b in (1, 2, 4, 8)
        ]
    return CellLine(
        cell=CellKey.of(cell),
        effective=EffectiveEntry(precision="fp32", device="cpu", provider="CPU", threads=2),
        build_s=noise.uniform(0.2, 6.0),
        open_s=noise.uniform(0.1, 1.0),
        artifact_bytes=noise.randint(2_400_000, 5_200_000),
        artifact_sha256="7d" * 32,
        peak_rss_bytes=noise.randint(380, 900) * 1_000_000,
        predict_s=tuple(base_ms / 1e3 * noise.uniform(0.96, 1.25) for _ in range(24)),
        curve=tuple(curve),
        isolation={"network": "namespace", "weights": "moved away"},
    )


def picture() -> str:
    """A small scene as base64 PNG."""
    rows, columns = np.mgrid[0:160, 0:192]
    scene = np.stack([90 + columns // 3, 110 + rows // 4, 120 + (rows + columns) // 6], axis=-1).astype(np.uint8)
    scene[(rows - 60) ** 2 + (columns - 50) ** 2 < 900] = (196, 72, 60)
    scene[90:140, 100:160] = (60, 96, 190)
    scene[20:58, 128:170] = (70, 160, 90)
    stream = io.BytesIO()
    Picture.fromarray(scene).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def exhibit(cell: Cell) -> ExhibitLine:
    """Two answers with a difference of each kind."""
    square = (100.0, 90.0, 160.0, 90.0, 160.0, 140.0, 100.0, 140.0)
    return ExhibitLine(
        cell=CellKey.of(cell),
        image="scene_0013",
        height_px=160,
        width_px=192,
        media_type="image/png",
        picture=picture(),
        reference=Answer(
            boxes_xyxy_px=((20.1, 30.2, 80.3, 90.1), (100.0, 90.0, 160.0, 140.0), (128.0, 20.0, 170.0, 58.0), (4, 120, 30, 150)),
            scores=(0.991, 0.984, 0.962, 0.31),
            labels=(0, 1, 1, 2),
            polygons=((), (square,), (), ()),
        ),
        candidate=Answer(
            boxes_xyxy_px=((20.1, 30.2, 80.3, 90.1), (103.2, 91.0, 161.0, 142.0), (128.0, 20.0, 170.0, 58.0), (60, 4, 90, 28)),
            scores=(0.991, 0.983, 0.871, 0.22),
            labels=(0, 1, 2, 0),
        ),
        pairs=(
            Pair(reference=0, candidate=0, difference="same", iou=1.0, box_px=3e-5, score=1e-6),
            Pair(reference=1, candidate=1, difference="moved", iou=0.91, box_px=3.2, score=1e-3),
            Pair(reference=2, candidate=2, difference="class", iou=1.0, box_px=1e-5, score=0.091),
            Pair(reference=3, candidate=None, difference="missing"),
            Pair(reference=None, candidate=3, difference="extra"),
        ),
        caption="worst box 3.2 px, level 0.019 px",
    )


def run(models: Sequence[str] = MODELS) -> Run:
    """The default invented run: every status but missing, exhibits, curves, a notice and a waiver."""
    asked = cells(models)
    speeds = {(backend, variant): base for backend, variant, base in BACKENDS}
    described = [cell_line(cell, speeds[cell.backend, cell.variant]) for cell in asked]
    for place, line in enumerate(described):
        if line.cell.model == "d2_maskrcnn_tiny" and line.cell.backend == "onnxruntime_session":
            crash = ErrorEntry(kind="killed", stage="open", message="signal 11 (segmentation fault)", detail="last words\nof it")
            described[place] = CellLine(cell=line.cell, error=crash, build_s=1.2, artifact_bytes=5_100_000)
    records = tuple(record(check, cell) for cell in asked for check, _ in CHECKS)
    shown = tuple(exhibit(cell) for cell in asked if cell.model == "tv_maskrcnn_tiny" and cell.backend == "openvino_ir")
    counts = {status: sum(r.status is status for r in records) for status in Status}
    footer = Footer(cut_off=None, seconds=312.4, counts=counts, sha256="0" * 64)
    return Run(header(models), tuple(described), records, shown, footer)


def write(folder: Path, made: Run, *, finish: bool = True) -> Path:
    """The run in a folder, as a writer leaves it; returns its file."""
    with RunWriter(folder, made.header) as writer:
        for line in made.cells:
            writer.cell(line)
        for given in made.records:
            writer.record(given)
        for shown in made.exhibits:
            writer.exhibit(shown)
        if finish:
            writer.finish()
    return folder / "run.jsonl"
