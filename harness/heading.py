"""What a run says of itself beside its verdicts: the header, and one line a cell."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from harness import __version__, doctor, environment, levels, registry
from harness.checks import CHECKS
from harness.curves import measured_curve
from harness.document import (
    OF_MIXED_SIZES,
    CellKey,
    CellLine,
    CheckEntry,
    CurvePoint,
    DeckEntry,
    EffectiveEntry,
    ErrorEntry,
    Header,
    ImageEntry,
    Level,
    Machine,
    ModelEntry,
    Notice,
    Planned,
    TestedVersions,
    WaiverEntry,
)
from harness.types import Cell, Job, JobError, ModelSpec, Observation, Purpose, digest

if TYPE_CHECKING:
    from harness.live import Plan
    from harness.plan import PlannedCell
    from harness.waivers import Waiver

METHOD = {
    "Isolation": "Each job runs in a process of its own with its own HOME, TMPDIR and working folder and the network cut; "
    "the artifact is opened at another place, and gone from where it was built. Fidelity jobs are fresh interpreters and find "
    "the source weights gone; the others are forked from one that has imported torch, torchvision and Detectron2, which their "
    "peak memory includes. Jobs of one run share matplotlib's list of fonts and what torch.compile has compiled.",
    "Weights": "After the model was built, every parameter and persistent buffer is changed in memory by about 1e-3 "
    "relative (seeded, the same for every backend, the reference included): only an artifact that carries the weights can "
    "answer alike.",
    "Reference": "torch_eager in fp32, one thread, one image at a time. Its noise floor F is itself with two threads and with "
    "batches of equal sizes.",
    "Matching": "Detections are matched one to one as sets, by IoU, optimally (linear sum assignment), blind to classes.",
    "Timing": "A survey, not gated: one process a cell, alone on the machine, all threads, monotonic clock, device synchronised.",
}
MEASURED = (
    "5 to 20 processes a cell, alone on the machine, all threads, monotonic clock, device synchronised; the processes of all cells "
    "of a model in rounds there and back. A process's figure is the median of its warm calls, warm-up found by MSER-5; it counts "
    "where the last three windows agree and nothing disturbed the machine. Intervals are t intervals on logs over processes."
)


_UNTRAINED = (
    "its weights are random ones, scaled until its detections stand apart. It sees nothing, its average precision means nothing; "
    "what is compared is what backends compute"
)


def header(plan: Plan, keys: Sequence[tuple[str, Cell]], known: Sequence[Waiver], run: str, command: str) -> Header:
    """The first line of the run; of the ``known`` waivers it lists those that are about its checks."""
    found = environment.machine()
    tested = environment.tested()
    used = dict.fromkeys(check for check, _ in keys)
    return Header(
        run=run,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        reproduce=command,
        harness_version=__version__,
        commit=_commit(),
        machine=Machine(
            cpu_model=found.cpu,
            cores=found.cores,
            memory_bytes=found.memory_bytes,
            os=found.system,
            fingerprint=found.fingerprint,
            accelerators=found.gpus,
        ),
        python=platform.python_version(),
        versions=plan.versions,
        tested_versions=TestedVersions(inside=bool(tested.inside), differing=tested.differences or _unknown(tested)),
        options={name: value for name, value in _plain_options(plan).items() if value},
        models=tuple(_model(model) for model in dict.fromkeys(cell.model for _, cell in keys)),
        deck=_deck(plan),
        checks=tuple(CheckEntry(id=c.id, title=c.title, asks=c.asks) for c in CHECKS.values() if c.id in used),
        planned=tuple(Planned(check=check, cell=CellKey.of(cell)) for check, cell in keys),
        levels=tuple(Level(quantity=quantity, level=level) for quantity, level in levels.TABLE),
        method={**METHOD, **(_timing() if plan.options.measured else {}), **_liars()},
        notices=_notices(plan),
        waivers=tuple(_waiver(waiver) for waiver in known if any(waiver.covers(check, cell) for check, cell in keys)),
    )


def _timing() -> dict[str, str]:
    """How throughput was measured, and how noisy this machine was when `harness noise` looked."""
    from harness.noise import Noise, noise_file

    file = noise_file(platformdirs.user_cache_path("detection-harness"))
    try:
        found = Noise.read(file)
    except (OSError, ValueError):
        return {"Timing": MEASURED, "Noise": "Not measured on this machine: `harness noise` does."}
    return {"Timing": MEASURED, "Noise": f"Measured by `harness noise` on {found.day}: {'; '.join(found.lines())}."}


def _liars() -> dict[str, str]:
    """How well the checks themselves were checked, where that was recorded."""
    from harness.selftest import RECORDED, read_outcome

    if not RECORDED.is_file():
        return {}
    outcome = read_outcome()
    words = outcome.text().replace("\n", "; ")
    return {"Liars": f"Recorded by `harness selftest` of version {outcome.version} on {outcome.day}: {words}."}


def cell_line(planned: PlannedCell, seen: Mapping[Purpose, Observation], sweeps: Sequence[Observation] = ()) -> CellLine:
    """What is known of a cell from its observations; ``sweeps`` are all its timed processes."""
    build, parity, timing = (seen.get(p) for p in (Purpose.BUILD, Purpose.PARITY, Purpose.TIMING))
    timing = timing or seen.get(Purpose.SWEEP)
    # Seconds of the job that ran alone with all threads; answers were compared of one that ran beside others with one.
    measured = timing if timing is not None and timing.effective is not None else parity
    judged = parity if parity is not None and parity.effective is not None else timing
    effective = judged.effective if judged else None
    surveyed = [
        CurvePoint(batch=p.batch, batching=p.kind, predict_s=p.predict_s, warmup_calls=p.warmup_calls)
        for p in (timing.curve if timing else ())
    ]
    curve = (*surveyed, *measured_curve(sweeps))
    errors = [o.error for o in seen.values() if o.error is not None]
    peaks = [o.peak_rss_bytes for o in seen.values() if o.peak_rss_bytes is not None and o.job.purpose is not Purpose.BUILD]
    return CellLine(
        cell=CellKey.of(planned.cell),
        effective=None
        if effective is None
        else EffectiveEntry(
            precision=effective.precision,
            device=effective.device,
            provider=effective.provider,
            threads=effective.threads,
            streams=effective.streams,
            versions=effective.versions,
        ),
        build_s=build.build_s if build else None,
        open_s=measured.open_s if measured else None,
        artifact_bytes=build.artifact_bytes if build else None,
        artifact_sha256=build.artifact_sha256 if build else None,
        peak_rss_bytes=max(peaks, default=None),
        # Not the parity job's calls: of these the reference is asked for more than its users ask.
        predict_s=next((one.predict_s for one in curve if one.batch == 1 and not one.batching.endswith(OF_MIXED_SIZES)), ()),
        curve=curve,
        isolation=parity.isolation if parity else {},
        notes=tuple(dict.fromkeys(note for o in seen.values() for note in o.notes)),
        declined=planned.unmet,
        error=ErrorEntry(kind="broken", stage="import", message=planned.broken) if planned.broken else _error(errors),
    )


def not_run(job: Job, planned: PlannedCell) -> Observation:
    """The observation of a job that was never started, because a library is absent or broken or the backend declines."""
    if planned.broken is not None:
        return Observation(job, error=JobError("broken", "import", planned.broken))
    return Observation(job, error=JobError("unavailable", "plan", planned.unmet or ""))


def _error(errors: Sequence[JobError]) -> ErrorEntry | None:
    if not errors:
        return None
    first = errors[0]
    return ErrorEntry(kind=first.kind, stage=first.stage, message=first.message, detail=first.detail)


def _model(model_id: str) -> ModelEntry:
    spec = registry.load_model(model_id)
    return ModelEntry(
        id=spec.id,
        family=spec.family,
        task=spec.task,
        classes=spec.classes,
        score_threshold=spec.score_threshold,
        weights_sha256=spec.weights.sha256,
        average_precision=_average_precision(spec),
    )


def _waiver(waiver: Waiver) -> WaiverEntry:
    return WaiverEntry(
        id=waiver.id,
        kind=waiver.kind,
        reason=waiver.reason,
        stage=waiver.stage,
        finding=f"docs/findings.md#{waiver.finding}",
        expires=waiver.expires.isoformat(),
    )


_RECORDED = {"box_ap50": "box AP50", "mask_ap50": "mask AP50", "keypoint_ap": "keypoint AP", "pq": "PQ"}
"""What is recorded beside a detector's weights, and how the page calls it."""


def _average_precision(spec: ModelSpec) -> dict[str, float]:
    from harness.fixtures.models import WEIGHTS_FOLDER

    note = WEIGHTS_FOLDER / f"{spec.id}.json"
    kept = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    return {words: float(kept[name]) for name, words in _RECORDED.items() if name in kept}


def _deck(plan: Plan) -> DeckEntry:
    images = tuple(
        ImageEntry(id=image.id, height_px=image.height_px, width_px=image.width_px, sha256=image.sha256)
        for image in plan.deck.images
    )
    return DeckEntry(id=plan.deck.id, sha256=digest([image.sha256 for image in images]), images=images)


def _plain_options(plan: Plan) -> dict[str, Any]:
    options = plan.options
    return {
        "model": options.model,
        "backend": options.backend,
        "variant": options.variant,
        "device": options.device,
        "adapter": tuple(Path(target).name for target in options.adapter),
        "require": options.require,
        "scope": options.scope,
        "only": options.only,
        "budget_s": options.budget if options.measured else None,
    }


def _notices(plan: Plan) -> tuple[Notice, ...]:
    """One line a library that keeps whole rows from being checked, and one a model that nobody trained."""
    notices: dict[str, Notice] = {}
    for planned in plan.cells:
        family = planned.spec.family
        title = {"detectron2": "Detectron2"}.get(family, family)
        if planned.broken and family in planned.broken:
            notices[title] = Notice(subject=title, state="broken", reason=planned.broken)
        elif planned.unmet and planned.unmet.startswith(f"{family} is not installed"):
            cure = doctor.install_words(family)
            notices[title] = Notice(subject=title, state="not checked", reason=f"{family} is not installed", cure=cure)
        if planned.runs and planned.spec.weights.source == "conditioned":
            notices[planned.cell.model] = Notice(subject=planned.cell.model, state="not trained", reason=_UNTRAINED)
    for name in plan.strangers:
        reason = f"there are waivers for it in {name}.toml, but no backend of that name"
        cure = "Rename the file if it is misspelt; a backend from a file comes with --adapter."
        notices[name] = Notice(subject=name, state="not checked", reason=reason, cure=cure)
    return tuple(notices.values())


def _unknown(tested: environment.Tested) -> tuple[str, ...]:
    return ("no constraints.txt was found to compare with",) if tested.inside is None else ()


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]  # git is found where the user has it
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _commit() -> str | None:
    """The commit of the checkout, marked where files differ from it, or of the source that pip recorded; None where unknown."""
    root = registry.checkout_root()
    if root is not None:
        commit, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
        return (f"{commit} (modified)" if changed else commit) or None
    try:
        url = importlib.metadata.distribution("detection-harness").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    recorded = json.loads(url).get("vcs_info", {}).get("commit_id") if url else None
    return str(recorded) if recorded else None
