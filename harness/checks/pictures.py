"""Pictures of the deck that ask for something special: exactly one object, more than the cap, sizes never seen at export.

Nothing new is run for them: the answers are those that parity is judged by, here with a demand of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from harness.checks import Check, Evidence, Judgement
from harness.checks.reference import limits
from harness.compare import NOTHING, Comparison, compare
from harness.types import Image, Measure, Purpose, Status


def sample(evidence: Evidence) -> Judgement:
    """The picture used for export has detections: what was traced through is what the deck asks about."""
    answers = evidence.observed[Purpose.PARITY].answers
    if evidence.sample not in answers:
        return Judgement(Status.FAILED, f"the picture used for export, {evidence.sample}, has no answer", 1)
    found = len(answers[evidence.sample])
    if not found:
        words = f"no detection on {evidence.sample}, the picture used for export: branches of the model may not have been traced"
        return Judgement(Status.FAILED, words, 1, image=evidence.sample)
    return Judgement(Status.PASSED, f"{found} detections on {evidence.sample}, the picture used for export", found)


def single(evidence: Evidence) -> Judgement:
    """Where the reference finds exactly one object, so does the backend."""
    theirs = evidence.reference[Purpose.PARITY].answers
    wanted = [image.id for image in evidence.images if len(theirs.get(image.id, NOTHING)) == 1]
    found = _on(evidence, wanted)
    for one in found.images:
        unexplained = len(one.matching.missing) + len(one.matching.extra) - len(one.certified_missing) - len(one.certified_extra)
        if unexplained:
            count = len(evidence.observed[Purpose.PARITY].answers.get(one.image, NOTHING))
            words = f"image {one.image}: {count} detections, {len(one.matching.pairs)} of them the reference's only one"
            return Judgement(Status.FAILED, words, found.detections, image=one.image)
    return Judgement(Status.PASSED, f"{found.matched} of {len(wanted)} pictures with exactly one object matched", found.matched)


def cap(evidence: Evidence) -> Judgement:
    """On pictures that show more objects than the cap, and fill the reference to it, the backend gives as many and no more."""
    full = evidence.spec.detection_cap
    theirs, own = evidence.reference[Purpose.PARITY].answers, evidence.observed[Purpose.PARITY].answers
    shown = Counter(annotation["image_id"] for annotation in evidence.truth()["annotations"])
    crowded = [image.id for number, image in enumerate(evidence.images, 1) if shown[number] > full]
    wanted = [image for image in crowded if len(theirs.get(image, NOTHING)) == full]
    found = _on(evidence, wanted)
    for one in found.images:
        count = len(own.get(one.image, NOTHING))
        if count > full or count < full - len(one.certified_missing):
            words = f"image {one.image}: {count} detections, the cap is {full} and the reference is full to it"
            return Judgement(Status.FAILED, words, found.detections, image=one.image)
    pictures = f"{len(wanted)} pictures with more objects than the cap of {full}"
    return Judgement(Status.PASSED, f"{pictures}: as many detections and no more", found.matched)


def sizes(evidence: Evidence) -> Judgement:
    """Pictures of sizes never seen at export are answered, and each has a detection that is the reference's."""
    theirs = evidence.reference[Purpose.PARITY].answers
    traced = next((image for image in evidence.images if image.id == evidence.sample), None)
    wanted = [
        image
        for image in evidence.images
        if len(theirs.get(image.id, NOTHING)) and (traced is None or _size(image) != _size(traced))
    ]
    found = _on(evidence, [image.id for image in wanted])
    matched = {one.image: len(one.matching.pairs) for one in found.images}
    measures = tuple(
        Measure(f"{name}: pictures with a match", sum(matched[image.id] > 0 for image in group), len(group), "pictures")
        for name, group in _size_classes(wanted, traced).items()
    )
    for image in wanted:
        if not matched[image.id]:
            size = f"{image.width_px}x{image.height_px} px, a size never seen at export"
            words = f"image {image.id} of {size}: no detection is the reference's"
            return Judgement(Status.FAILED, words, found.detections, measures, image.id)
    kinds = ", ".join(f"{len(group)} {name}" for name, group in _size_classes(wanted, traced).items())
    words = f"{found.matched} detections matched on {len(wanted)} pictures of other sizes than the export's: {kinds}"
    return Judgement(Status.PASSED, words, found.matched, measures)


def _size(image: Image) -> tuple[int, int]:
    return image.height_px, image.width_px


def _size_classes(images: Sequence[Image], traced: Image | None) -> Mapping[str, list[Image]]:
    """The pictures by what is special about their size; a picture may be in several. Classes without a picture are left out."""
    classes: dict[str, Callable[[Image], bool]] = {
        "portrait": lambda image: image.height_px > image.width_px,
        "landscape": lambda image: image.height_px < image.width_px,
        "square": lambda image: image.height_px == image.width_px,
        "not multiples of 32": lambda image: bool(image.height_px % 32 or image.width_px % 32),
    }
    if traced is not None:
        side = min(_size(traced))
        classes["shorter than the export's"] = lambda image: min(_size(image)) < side
        classes["longer than the export's"] = lambda image: min(_size(image)) > side
    groups = {name: [image for image in images if belongs(image)] for name, belongs in classes.items()}
    return {name: group for name, group in groups.items() if group}


def _on(evidence: Evidence, images: Sequence[str]) -> Comparison:
    """The backend's answers to these pictures against the reference's: boxes, scores and classes."""
    own, theirs = evidence.observed[Purpose.PARITY], evidence.reference[Purpose.PARITY]
    return compare(theirs.answers, own.answers, limits(evidence), images, outputs=(), ledgers=theirs.ledgers)


_PARITY = frozenset({Purpose.PARITY})

CHECKS = (
    Check(
        "contract.sample",
        "The picture used for export has detections",
        "A trace follows what one picture makes the model do: on the picture used for export there are detections, so that "
        "every branch was followed. What usually breaks it: an export made from noise or an empty picture. What to do: trace "
        "with a picture that shows objects.",
        _PARITY,
        sample,
    ),
    Check(
        "contract.single",
        "Exactly one object",
        "On pictures where the reference finds exactly one object the backend finds that one and no other. What usually breaks "
        "it: a dimension of size one that is squeezed away, a loop that is traced for several. What to do: look at the shapes "
        "of the outputs for the named picture.",
        _PARITY,
        single,
        _PARITY,
    ),
    Check(
        "contract.cap",
        "More objects than the cap",
        "On pictures that show more objects than the model's detection cap, where the reference is full to it, the backend "
        "gives as many detections and no more. What usually breaks it: a cap that was traced as a constant of the example, or "
        "applied for each class, or lost. What to do: count the candidates before the cap.",
        _PARITY,
        cap,
        _PARITY,
    ),
    Check(
        "contract.sizes",
        "Sizes never seen at export",
        "Portrait, landscape and square pictures, sides that are no multiple of 32, shorter and longer than those of the "
        "picture used for export, which the network scales up and down: each is answered, and with at least one of the "
        "reference's detections; how well they agree is for the parity checks. What usually breaks it: sizes traced as "
        "constants, padding or anchors of the example. What to do: see which kinds of sizes have no match in the measures.",
        _PARITY,
        sizes,
        _PARITY,
    ),
)
