"""Save and load: what was saved comes back, all of it, from the artifact alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness.checks import Check, Evidence, Judgement
from harness.checks.contract import device_kind
from harness.checks.differences import (
    answer_differences,
    kept_differences,
    tensor_differences,
    tensor_measures,
    unequal,
    version_differences,
)
from harness.checks.rules import broke
from harness.types import Cell, Observation, Purpose, Restoration, Status

REFERENCE_BACKEND = "torch_eager"
_OPENED = (Purpose.BUILD, Purpose.PARITY, Purpose.FIDELITY)
NO_OBJECT = "this backend gives back no live model, only answers"


def only_carrier(evidence: Evidence) -> Judgement:
    """The fidelity job, which has nothing but the artifact, opened and answered."""
    alone = evidence.observed[Purpose.FIDELITY]
    if alone.error is not None:
        status = Status.FAILED if alone.error.kind == "raised" else Status.ERRORED
        return Judgement(status, f"it opens beside its source checkpoint and not without it: {broke(alone)}", 1)
    how = ", ".join(f"{name}: {words}" for name, words in sorted(alone.isolation.items()))
    answered = len(alone.answers)
    words = f"opened and answered {answered} images in a fresh process with its source gone ({how or 'isolation not recorded'})"
    return Judgement(Status.PASSED if answered else Status.FAILED, words, answered)


def weights(evidence: Evidence) -> Judgement:
    """Every restored parameter and buffer is, bit for bit, the one that was saved; of a graph the one that was traced."""
    build = evidence.observed[Purpose.BUILD]
    compared = 0
    for observation, restored in _with_tensors(evidence):
        saved = build.source if restored.live else build.traced
        if saved is None:
            return Judgement(Status.ERRORED, "not established: the build job did not record what it saved")
        for words in tensor_differences(saved, restored):
            reason = f"opened for the {observation.job.purpose} job: {words}"
            return Judgement(Status.FAILED, reason, len(saved.tensors), tensor_measures(saved, restored))
        compared += len(saved.tensors)
    with_tensors = {observation.job.purpose for observation, _ in _with_tensors(evidence)}
    silent = [p for p in _OPENED if p not in with_tensors and evidence.observed[p].error is None]
    if compared and silent:
        return Judgement(Status.FAILED, f"it gave back a live model, but none for the {silent[0]} job", compared)
    if not compared:
        return Judgement(Status.DECLINED, f"{NO_OBJECT}: its weights are judged through parity")
    return Judgement(Status.PASSED, f"{compared} tensors came back bit-equal, the source there and gone", compared)


def answers(evidence: Evidence) -> Judgement:
    """Answers are bit-equal: to the reference's for a restored model, to its own for anything else."""
    live = any(True for _ in _restored(evidence))
    if not live and evidence.observed[Purpose.FIDELITY].error is not None:
        return Judgement(Status.DECLINED, "there is no second answer to compare: see fidelity.only_carrier")
    own = evidence.observed[Purpose.PARITY]
    is_reference = evidence.cell.backend == REFERENCE_BACKEND
    expected = own if is_reference or not live else evidence.reference[Purpose.PARITY]
    whose = "its own beside the source" if expected is own else "the reference's"
    compared = 0
    for observation in (evidence.observed[purpose] for purpose in _OPENED if purpose in evidence.observed):
        if observation.error is not None:
            continue
        # The build job always runs on the CPU: its answers say nothing about a cell on another device.
        if observation is expected or not observation.answers or observation.job.cell.device != expected.job.cell.device:
            continue
        where = "in the building process" if observation.job.purpose is Purpose.BUILD else f"in the {observation.job.purpose} job"
        for image, found in observation.answers.items():
            compared += 1
            words = unequal(expected.answers.get(image), found)
            if words:
                reason = f"{where}, {words} on image {image} (compared with {whose})"
                return Judgement(Status.FAILED, reason, compared, image=image)
    return Judgement(Status.PASSED, f"{compared} answers are bit-equal to {whose}", compared)


def caller_unchanged(evidence: Evidence) -> Judgement:
    """The model, config and attachments of the caller are after saving what they were before."""
    build = evidence.observed[Purpose.BUILD]
    if build.source is None or build.source_after is None:
        return Judgement(Status.ERRORED, "not established: the build job did not record the caller's model before and after")
    before, after = build.source, build.source_after
    differences = [*tensor_differences(before, after, device=True), *kept_differences(before, after), *_mode_change(before, after)]
    compared = len(before.tensors) + len(before.attached) + 2
    told = [f"saving changed what it was given: {words}" for words in differences[:1]]
    again, since = build.rechanged, build.rechanged_after
    if again is not None and since is not None:
        compared += len(again.tensors) + 2
        changed = [*tensor_differences(again, since, device=True), *kept_differences(again, since), *_mode_change(again, since)]
        told += [f"saving what was loaded, in {_mode(again)} mode, changed it: {words}" for words in changed[:1]]
    if told:
        return Judgement(Status.FAILED, "; ".join(told), compared)
    return Judgement(Status.PASSED, "saving changed no tensor, mode, config or attachment of the caller", compared)


def mode(evidence: Evidence) -> Judgement:
    """The restored model is in eval mode on the asked device, and opening it changed no process-wide default."""
    compared = 0
    for observation, restored in _with_tensors(evidence):
        compared += len(restored.tensors)
        for words in _mode_faults(restored, observation.job.cell):
            return Judgement(Status.FAILED, f"opened for the {observation.job.purpose} job, {words}", compared)
    if not compared:
        return Judgement(Status.DECLINED, f"{NO_OBJECT}: no mode to look at")
    build = evidence.observed[Purpose.BUILD]
    if build.rechanged is not None and build.rechanged.training and build.resaved is not None:
        compared += len(build.resaved.tensors)
        for words in _mode_faults(build.resaved, build.job.cell):
            return Judgement(Status.FAILED, f"saved in training mode and opened, {words}", compared)
    return Judgement(Status.PASSED, f"in eval mode, {compared} tensors on the device asked for, no default changed", compared)


def attached(evidence: Evidence) -> Judgement:
    """Config and everything stored beside the model come back equal."""
    saved = evidence.observed[Purpose.BUILD].source
    compared = 0
    came_back = list(_stored(evidence))
    # A route that says it keeps nothing of a kind is not blamed; one that keeps it in one process keeps it in all.
    keeps = {*evidence.observed[Purpose.BUILD].keeps, *(_brought(came_back, saved) if saved is not None else ())}
    for observation, restored in came_back:
        if saved is None:
            return Judgement(Status.ERRORED, "not established: the build job did not record what it saved")
        for words in (*kept_differences(saved, restored, keeps), *version_differences(restored, keeps)):
            return Judgement(Status.FAILED, f"opened for the {observation.job.purpose} job, {words}", max(compared, 1))
        compared += len(restored.attached) + (restored.config is not None) + len(restored.versions)
    silent = [p for p in _OPENED if evidence.observed[p].error is None and evidence.observed[p].restored is None]
    if keeps and silent:
        reason = f"for the {silent[0]} job nothing came back of what this route keeps: {', '.join(sorted(keeps))}"
        return Judgement(Status.FAILED, reason, len(keeps))
    if not compared:
        return Judgement(Status.DECLINED, "this backend keeps neither the config nor anything stored beside the model")
    return Judgement(Status.PASSED, f"{compared} things stored beside the weights came back equal", compared)


def resaved(evidence: Evidence) -> Judgement:
    """What was loaded, its weights changed, saved once more and loaded again, has the content that was saved."""
    build = evidence.observed[Purpose.BUILD]
    parity = evidence.observed.get(Purpose.PARITY)
    if build.error is not None and parity is not None and parity.error is not None:
        return Judgement(Status.DECLINED, "it does not open in any process: see contract.opens")
    if build.error is not None:
        return Judgement(Status.ERRORED, broke(build))
    if _of(build) is None or build.restored is None:
        return Judgement(Status.DECLINED, f"{NO_OBJECT}: there is nothing to save once more")
    if build.resaved is None:
        return Judgement(Status.DECLINED, "this route cannot save what it loaded")
    first, second = build.rechanged or build.restored, build.resaved
    differences = [*tensor_differences(first, second), *kept_differences(first, second)]
    compared = len(first.tensors) + len(first.attached)
    if differences:
        reason = f"after saving what was loaded: {differences[0]}"
        return Judgement(Status.FAILED, reason, compared, tensor_measures(first, second))
    return Judgement(Status.PASSED, f"{compared} tensors and attachments have the same content after a second save", compared)


def archived(evidence: Evidence) -> Judgement:
    """What is exported to an archive and imported again has the same content, in every format."""
    build = evidence.observed[Purpose.BUILD]
    if not build.archived or build.restored is None:
        return Judgement(
            Status.DECLINED, "this backend has no export and import of its own, or did not open before it came to that"
        )
    compared = 0
    for ending, found in build.archived.items():
        compared += 1
        if isinstance(found, str):
            return Judgement(Status.FAILED, f"what is exported to a {ending} cannot be had back: {found}", compared)
        differences = [
            *tensor_differences(build.restored, found),
            *kept_differences(build.restored, found),
            *answer_differences(build.restored, found),
        ]
        compared += len(build.restored.tensors) + len(build.restored.attached) + len(build.restored.answers)
        if differences:
            reason = f"exported to a {ending} and imported: {differences[0]}"
            return Judgement(Status.FAILED, reason, compared, tensor_measures(build.restored, found))
    return Judgement(Status.PASSED, f"the same content from {', '.join(build.archived)}", compared)


def _of(observation: Observation) -> Restoration | None:
    """The live model that a job gave back; None where it gave none."""
    return observation.restored if observation.restored is not None and observation.restored.live else None


def _restored(evidence: Evidence) -> Iterator[tuple[Observation, Restoration]]:
    """The jobs that gave back a live model, in the order in which they ran."""
    return ((observation, restored) for observation, restored in _stored(evidence) if restored.live)


def _with_tensors(evidence: Evidence) -> Iterator[tuple[Observation, Restoration]]:
    """The jobs that gave back a live model, or a graph that has its tensors."""
    return ((observation, restored) for observation, restored in _stored(evidence) if restored.live or restored.tensors)


def _stored(evidence: Evidence) -> Iterator[tuple[Observation, Restoration]]:
    """The jobs that gave back a live model, or what was stored beside a graph."""
    for purpose in Purpose:
        observation = evidence.observed.get(purpose)
        if observation is not None and observation.restored is not None:
            yield observation, observation.restored


def _brought(came_back: Sequence[tuple[Observation, Restoration]], saved: Restoration) -> Iterator[str]:
    """What at least one job was given back: the config, and where anything was stored beside the model, all that was."""
    if any(restored.config is not None for _, restored in came_back):
        yield "config"
    if any(restored.attached for _, restored in came_back):
        yield from saved.attached


def _mode(restoration: Restoration) -> str:
    return "training" if restoration.training else "eval"


def _mode_change(before: Restoration, after: Restoration) -> Iterator[str]:
    if before.training != after.training:
        yield f"the model was in {_mode(before)} mode before and is in {_mode(after)} mode after"


def _mode_faults(restored: Restoration, cell: Cell) -> Iterator[str]:
    if restored.training:
        yield "the model came back in training mode"
    for tensor in restored.tensors:
        if device_kind(tensor.device) != cell.device:
            yield f"{tensor.kind} {tensor.name} is on {tensor.device}, asked was {cell.device}"
    for name in restored.defaults_changed:
        yield f"opening changed a default of the whole process: {name}"


def _check(
    name: str, title: str, asks: str, needs: set[Purpose], judge: Callable[[Evidence], Judgement], *, reference: bool = False
) -> Check:
    handles = {"only_carrier": frozenset({Purpose.FIDELITY}), "resaved": frozenset({Purpose.BUILD})}.get(name, frozenset())
    against = frozenset({Purpose.PARITY}) if reference else frozenset[Purpose]()
    return Check(f"fidelity.{name}", title, asks, frozenset(needs), judge, against, handles, frozenset({Purpose.FIDELITY}))


CHECKS = (
    _check(
        "only_carrier",
        "The artifact is the only carrier",
        "The artifact, moved to another folder, opens and answers in a fresh process whose home, temporary and working "
        "folders are its own, with the network cut and the source checkpoint gone. It already opened with the checkpoint "
        "there, so a failure here means that it cannot do without it. What usually breaks it: a path to the weights in a "
        "stored config, a cache in the home folder, a download at load time. What to do: look at the path in the reason, and "
        "store what it points to.",
        {Purpose.PARITY, Purpose.FIDELITY},
        only_carrier,
    ),
    _check(
        "weights",
        "Weights come back bit for bit",
        "Every parameter and buffer has the name, kind, dtype, shape and SHA-256 that it had in memory when it was saved: in "
        "the building process, in another with the source checkpoint there, and in a third with it gone. The level is 0 ULP. "
        "The weights were perturbed in memory before saving, so that a route which reads the checkpoint again brings back "
        "other values. A graph that keeps its tensors under their names, as TorchScript does, is held to the module that was "
        "traced. What usually breaks it: reloading from the config's weights path, buffers that are not persistent, a "
        "cast to half precision. What to do: the first tensor that differs is named; find who wrote it.",
        set(_OPENED),
        weights,
    ),
    _check(
        "answers",
        "A restored model answers bit for bit",
        "A live model of the same framework, given back by a store, answers exactly as the reference does, in the same order "
        "and number, in process and in a fresh one: level 0. A backend that gives back no live model must answer with its "
        "source gone exactly as it did with it there. One thread, one image at a time. What usually breaks it: other "
        "weights, a changed preprocessing, another thread count, arithmetic that is not deterministic. What to do: see the "
        "weights check first; if it passes, compare the config and the number of threads.",
        set(_OPENED),
        answers,
        reference=True,
    ),
    _check(
        "caller_unchanged",
        "Saving leaves the caller's model alone",
        "The model, its config and everything stored beside it are after saving what they were before: every tensor bit for "
        "bit and on its device, the training mode, the config, dictionaries. What was loaded is saved once more in training "
        "mode, and is in training mode after it. What usually breaks it: a save that moves the "
        "model to the CPU, casts it, calls eval() on it, fuses layers in place or empties a dictionary that it was handed. What "
        "to do: save a copy.",
        {Purpose.BUILD},
        caller_unchanged,
    ),
    _check(
        "mode",
        "It comes back ready for inference",
        "A restored model is in eval mode, every tensor on the device that was asked for, and opening it changed no default "
        "of the process: dtype, device, gradient mode, threads. So is one that was saved in training mode. What usually breaks "
        "it: a module that is kept whole with its mode, buffers that stay on the CPU. What to do: call eval() and to(device) "
        "after loading, and report it to the store.",
        set(_OPENED),
        mode,
    ),
    _check(
        "attached",
        "Config and attachments come back equal",
        "The config, labels, metadata, signatures and custom objects that were stored with the model are equal when it is "
        "loaded, and the versions of packages that the store recorded are those that it was saved with. What a route says it "
        "keeps must come back; routes that keep none of them are declined. External modules travel within the custom objects: "
        "no route here keeps their names. What usually breaks it: numbers that become text, "
        "tuples that become lists, a config that is rewritten on loading. What to do: the reason names the key, its value then "
        "and now.",
        set(_OPENED),
        attached,
    ),
    _check(
        "resaved",
        "Saving again changes nothing",
        "The model that was loaded, its weights perturbed once more, is saved and loaded again in the same process: tensors, "
        "config and attachments are those that were saved. What usually breaks it: wrappers that pile up, prefixes in names, "
        "casts that round twice, a loaded object that is kept and handed out again. What to do: compare the two stores.",
        {Purpose.BUILD, Purpose.PARITY},
        resaved,
    ),
    _check(
        "archived",
        "Export and import change nothing",
        "What the store holds is exported to an archive of every format that it offers, imported into an empty store and "
        "opened: tensors, config and attachments have the same content; a graph answers every picture bit for bit as before "
        "besides. Backends without an export are declined. What "
        "usually breaks it: a file that is left out, a path into the old store. What to do: list the archive and "
        "compare it with the entry's folder.",
        {Purpose.BUILD, Purpose.PARITY},
        archived,
    ),
)
