"""How every backend must behave from call to call: steady, in order, without memory of other pictures.

Answers of a backend are compared with its own answers to the same picture, at the levels of parity before any noise
(`harness.checks.reference.fault`): the same work at one thread has no reason to differ by more, and equal-size batches may only sum
in another order. How many are equal bit for bit is told beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

from harness import levels
from harness.behaviour import BLANK, SWAPPED, told
from harness.checks import Check, Evidence, Judgement
from harness.checks.contract import other_than_asked
from harness.checks.differences import unequal
from harness.checks.reference import fault, limits
from harness.checks.rules import broke
from harness.compare import NOTHING, Comparison, compare
from harness.detections import Detections
from harness.types import Measure, Purpose, Status

Rounds: TypeAlias = tuple[dict[str, Detections], ...]


class _Pair(NamedTuple):
    """Two answers to one picture that must agree, and in words what was done between them."""

    picture: str
    words: str
    expected: Detections
    found: Detections


def same_twice(evidence: Evidence) -> Judgement:
    """The same picture, asked again at once, gets the same answer."""
    observation = evidence.observed[Purpose.BEHAVIOUR]
    if observation.error is not None:
        return Judgement(Status.ERRORED, broke(observation))
    rounds = _rounds(evidence, "twice")
    pairs = [
        _Pair(name, "asked twice", answer, second[name])
        for first, second in zip(rounds[::2], rounds[1::2], strict=True)
        for name, answer in first.items()
    ]
    return _agree(evidence, pairs)


def after_blank(evidence: Evidence) -> Judgement:
    """A blank picture is answered with nothing, and the one after it as before."""
    rounds = _rounds(evidence, "blank")
    if not rounds:
        return _nothing()
    before, blank, after = rounds
    found = len(blank[BLANK])
    if found:
        return Judgement(Status.FAILED, f"{found} detections on a blank picture, level 0", found, image=BLANK)
    return _agree(evidence, [_Pair(name, "asked before and after a blank picture", before[name], after[name]) for name in before])


def batch(evidence: Evidence) -> Judgement:
    """Pictures of one size are answered in one call as one by one, each with an answer of its own, in their order."""
    *single, together = _rounds(evidence, "batch") or ({},)
    alone = {name: answer for one in single for name, answer in one.items()}
    for (name, answer), (other, another) in combinations(alone.items(), 2):
        if len(answer) and not unequal(answer, another):
            words = f"images {name} and {other} have one and the same answer, bit for bit"
            return Judgement(Status.FAILED, words, len(answer) + len(another), image=other)
    return _agree(evidence, [_Pair(name, "asked alone and in a batch", alone[name], together[name]) for name in together])


def permuted(evidence: Evidence) -> Judgement:
    """The same batch in another order: the answers follow their pictures."""
    first, second = _rounds(evidence, "permuted") or ({}, {})
    return _agree(
        evidence, [_Pair(name, "asked in a batch and in the permuted batch", first[name], second[name]) for name in first]
    )


def channels(evidence: Evidence) -> Judgement:
    """Red and blue exchanged: the answer is another one."""
    straight, exchanged = _rounds(evidence, "swapped") or ({}, {SWAPPED: NOTHING})
    pairs = [_Pair(name, "", answer, exchanged[SWAPPED]) for name, answer in straight.items()]
    found = _compared(evidence, pairs)
    differs = fault(found)
    if differs is None and found.detections:
        words = "the answer stays the same within the levels when red and blue are exchanged: the channels are not told apart"
        return Judgement(Status.FAILED, words, found.detections, image=pairs[0].picture)
    seen = "nothing is found" if differs is None else differs.words
    return Judgement(Status.PASSED, f"when red and blue are exchanged, {seen}", found.detections)


def held(evidence: Evidence) -> Judgement:
    """What a call returned stays what it was when the next call is made."""
    compared = 0
    for case in ("one held", "batch held"):
        at_once, kept = _rounds(evidence, case) or ({}, {})
        for name, answer in at_once.items():
            compared += len(answer)
            changed = unequal(answer, kept[name])
            if changed:
                words = (
                    f"the answer to image {name} changed after the next call ({case.removesuffix(' held')} at a time): {changed}"
                )
                return Judgement(Status.FAILED, words, max(compared, 1), image=name)
    return Judgement(Status.PASSED, f"{compared} detections are the same bits after the next call", compared)


def mixed_sizes(evidence: Evidence) -> Judgement:
    """Unequal sizes in one call, against the reference given the same call."""
    own = evidence.observed[Purpose.BEHAVIOUR]
    if "mixed" in own.declined:
        return Judgement(Status.DECLINED, own.declined["mixed"])
    differs = other_than_asked(evidence, own.effective)
    if differs:
        return Judgement(Status.ERRORED, f"{differs}: see contract.effective")
    (expected,) = told(evidence.reference[Purpose.BEHAVIOUR].answers, "mixed") or ({},)
    (found,) = _rounds(evidence, "mixed") or ({},)
    pairs = [_Pair(name, "in one call with other sizes", answer, found[name]) for name, answer in expected.items()]
    return _agree(evidence, pairs)


def _rounds(evidence: Evidence, case: str) -> Rounds:
    return told(evidence.observed[Purpose.BEHAVIOUR].answers, case)


def _nothing() -> Judgement:
    return Judgement(Status.ERRORED, "compared nothing: this deck lacks the pictures for it")


def _compared(evidence: Evidence, pairs: Sequence[_Pair]) -> Comparison:
    """All pairs as one comparison, each under its place in ``pairs``."""
    expected = {str(index): pair.expected for index, pair in enumerate(pairs)}
    found = {str(index): pair.found for index, pair in enumerate(pairs)}
    return compare(expected, found, limits(evidence))


def _agree(evidence: Evidence, pairs: Sequence[_Pair]) -> Judgement:
    """Whether every pair agrees at the levels of parity before any noise.

    At lower precision a miss is not established, unless most of what was found on a picture has no partner: then it is an answer
    to something else.
    """
    found = _compared(evidence, pairs)
    equal = sum(not unequal(pair.expected, pair.found) for pair in pairs)
    measures = (
        Measure("worst score difference", found.worst("score"), levels.SCORE),
        Measure("worst box difference", found.worst("box_px"), unit="px"),
        Measure("answers equal bit for bit", equal, unit="answers"),
        Measure("answers", len(pairs), unit="answers"),
    )
    wrong = fault(found)
    if wrong is None:
        return Judgement(Status.PASSED, f"{len(pairs)} answers agree, {equal} of them bit for bit", found.detections, measures)
    worst = pairs[int(wrong.image or 0)]
    words = f"image {worst.picture}, {worst.words}: {wrong.words}"
    failed = Judgement(Status.FAILED, words, found.detections, measures, worst.picture)
    effective = evidence.observed[Purpose.BEHAVIOUR].effective
    # Who was asked for a precision is held to it; only where the choice was the runtime's own is its choice read back.
    asked = evidence.variant.precision
    precision = effective.precision if asked == "default" and effective is not None else asked
    astray = any(2 * image.unmatched > image.detections for image in found.images)
    if precision != "fp32" and not astray:
        words = f"{words}; the levels are those of fp32, this is {precision}"
        return dataclasses.replace(failed, status=Status.INCONCLUSIVE, reason=words)
    return failed


_BEHAVIOUR = frozenset({Purpose.BEHAVIOUR})
# A backend that answers the deck at all: where it does not, contract.opens tells.
_OPENED = frozenset({Purpose.PARITY, Purpose.BEHAVIOUR})

CHECKS = (
    Check(
        "contract.same_twice",
        "The same picture twice",
        "A picture asked twice in a row gets the same answer, at the levels of parity (score 1e-4; box max(0.01 px, 1e-4 x "
        "side)), one thread; how many answers are equal bit for bit is told beside it. What usually breaks it: dropout or batch"
        " statistics left on, kernels chosen anew by timing, memory read before it was written. What to do: ask more often and "
        "look where the first difference arises; a backend that is not steady cannot be compared.",
        _OPENED,
        same_twice,
        handles=_BEHAVIOUR,
    ),
    Check(
        "contract.after_blank",
        "A blank picture leaves nothing behind",
        "A picture that shows nothing has no detection, and the picture after it is answered as before it, at the levels of "
        "parity. What usually breaks it: graphs that fail or keep old memory where no proposal survives, outputs that are not "
        "resized to nothing. What to do: run the blank picture alone, then look at the shapes of the outputs after it.",
        _OPENED,
        after_blank,
    ),
    Check(
        "contract.batch",
        "A batch is answered like its pictures",
        "Pictures of one size, given together, are answered as one by one, at the levels of parity (sums may be reordered), in "
        "their order and none with its neighbour's answer; different pictures have different answers. What usually breaks it: a"
        " last batch that is filled up, answers kept by the input's shape, requests in flight collected in the order of their "
        "end. What to do: see whose answer the named picture was given.",
        _OPENED,
        batch,
    ),
    Check(
        "contract.permuted",
        "Answers follow their pictures",
        "The same batch in another order: every picture keeps its answer, at the levels of parity. What usually breaks it: "
        "answers sorted, or collected in the order in which they were done, or joined by their place in an earlier call. What "
        "to do: give two pictures and exchange them.",
        _OPENED,
        permuted,
    ),
    Check(
        "contract.channels",
        "Colours are seen",
        "With red and blue exchanged the picture gets another answer, beyond the levels of parity. What usually breaks it: a "
        "conversion to grey, channels put into order by their values, answers that do not come from the picture. What to do: "
        "look at what is fed to the network.",
        _OPENED,
        channels,
    ),
    Check(
        "contract.held",
        "Answers stay valid after the next call",
        "What the session returned, read again after another picture was asked, is the same bits as a copy made at once; for "
        "runtimes of graphs their own tensors are held, before anything is made of them. What usually breaks it: outputs that "
        "share the memory of the next request (OpenVINO's share_outputs, bound outputs of ONNX Runtime). What to do: copy them.",
        _OPENED,
        held,
    ),
    Check(
        "contract.mixed_sizes",
        "Unequal sizes in one call",
        "Pictures of unequal sizes in one call of the library are padded to one size, which changes the answers of the "
        "reference too: they are compared with the reference's to the same call, at the levels of parity. Declined by backends "
        "that take one picture a call. What usually breaks it: boxes scaled back by the padded size, masks pasted into it. What"
        " to do: compare the call with the same pictures one by one.",
        _OPENED,
        mixed_sizes,
        _BEHAVIOUR,
    ),
)
