"""Whether what was timed was the work: the answers of the timed loop are compared, and one picture is asked twice."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from harness import levels
from harness.checks import Check, Evidence, Judgement
from harness.checks.fit import points_of, ran, span
from harness.checks.parity import precision_class
from harness.checks.reference import fault, limits, noise_floor
from harness.compare import compare
from harness.intervals import ratio_interval
from harness.sweep import PADDED, mixed_batch, mixed_words, read_name
from harness.types import Measure, Purpose, Status

if TYPE_CHECKING:
    from harness.detections import Detections


def answers(evidence: Evidence) -> Judgement:
    """What the timed loop answered is what this backend answers when nobody counts the time."""
    precision = precision_class(evidence)
    if precision != "fp32":
        return Judgement(Status.DECLINED, f"the levels of single answers are those of fp32, this is {precision}")
    alone, padded = evidence.observed[Purpose.PARITY].answers, _padded(evidence)
    floor, compared, differing = noise_floor(evidence), 0, 0
    for seen in ran(evidence.sweeps):
        in_one = {mixed_words(point.batch) for point in points_of(seen, "mixed") if point.kind == PADDED}
        for name, answer in seen.answers.items():
            asked, picture, other = read_name(name)
            if not isinstance(asked, int) and mixed_batch(asked) is None:
                continue
            expected = padded.get(picture) if asked in in_one else alone[picture]
            if expected is None:
                continue
            beside = compare({picture: expected}, {picture: answer}, limits(evidence, floor))
            compared += max(1, beside.detections)
            differing += other > 0
            wrong = fault(beside)
            if wrong is not None:
                how = f"{asked} images a call" if isinstance(asked, int) else f"pictures of {asked}"
                like = "in the reference's batch of these" if asked in in_one else "in parity's job"
                reason = f"timed with {how}, {picture} is answered otherwise than {like}: {wrong.words}"
                return Judgement(Status.FAILED, reason, compared, image=picture)
    steady = (
        "no answer changed from call to call" if not differing else f"{differing} answers changed from call to call, within levels"
    )
    return Judgement(Status.PASSED, f"{compared} detections of the timed loop are those of parity's job; {steady}", compared)


def caching(evidence: Evidence) -> Judgement:
    """A picture once more takes as long as it did the first time."""
    again = [seen.sweep for seen in ran(evidence.sweeps) if seen.sweep is not None and seen.sweep.again_s]
    if len(again) < levels.FEWEST_PROCESSES:
        return Judgement(Status.INCONCLUSIVE, f"{len(again)} processes were audited, {levels.FEWEST_PROCESSES} needed", len(again))
    found = ratio_interval([median(one.fresh_s) for one in again], [median(one.again_s) for one in again])
    measures = (Measure("time of a picture once more, of its first time", found.estimate, levels.CACHED),)
    words = f"a picture once more takes {found.estimate:.3g} of its first time ({span(found)})"
    if found.high < levels.CACHED:
        return Judgement(Status.FAILED, f"{words}: it was not looked at again", len(again), measures)
    if found.low < levels.CACHED:
        return Judgement(Status.INCONCLUSIVE, f"{words}, level {levels.CACHED}", len(again), measures)
    return Judgement(Status.PASSED, words, len(again), measures)


def _padded(evidence: Evidence) -> dict[str, Detections]:
    """What the reference answers to each picture in a batch of mixed sizes, all of which are padded to the largest."""
    found: dict[str, Detections] = {}
    for seen in ran(evidence.reference_sweeps):
        for name, answer in seen.answers.items():
            asked, picture, _ = read_name(name)
            if (mixed_batch(asked) or 1) > 1:
                found.setdefault(picture, answer)
    return found


CHECKS = (
    Check(
        "throughput.answers",
        "The fast path is the checked path",
        "Every different answer that the timed calls gave, at every batch size, is what this backend answered in the parity job, "
        "at the levels of parity: what is timed is what was checked. Where pictures of several sizes were padded to one, it is "
        "what the reference answers to such a batch. Of less than fp32 it is not asked. What usually breaks it: a "
        "batch whose tail is dropped, buffers that are reused, another path for batches. What to do: compare with "
        "contract.batch and contract.held.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        answers,
        reference=frozenset({Purpose.PARITY, Purpose.FLOOR, Purpose.SWEEP}),
        at="swept",
    ),
    Check(
        "throughput.caching",
        "A picture once more is looked at once more",
        "A picture that was never asked before, asked once more right after, takes no less than 0.9 of its first time: the median "
        "of 11 pictures a process, alike but for a pixel, the ratio's interval over five of them. What usually breaks it: answers "
        "kept by picture, which make a timing on few pictures one of the cache. What to do: turn the cache off, or say so.",
        frozenset({Purpose.PARITY, Purpose.SWEEP}),
        caching,
        at="swept",
    ),
)
