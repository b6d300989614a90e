"""What is served: the way over the wire changes nothing, mistakes are answered in sentences, the token is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable

from harness.checks import Check, Evidence, Judgement
from harness.checks.differences import unequal
from harness.checks.rules import broke
from harness.types import Purpose, Reply, Status
from harness.wire import DRAW, must_be_answered, told_kinds

_REFUSED = (401, 403)


def wire(evidence: Evidence) -> Judgement:
    """A picture file is answered bit for bit as the pixels that a viewer shows of it."""
    served = evidence.observed[Purpose.SERVING]
    if served.error is not None:
        return Judgement(Status.ERRORED, broke(served))
    compared, refused = 0, []
    for kind in told_kinds(served.replies):
        said = served.replies[f"file {kind}"]
        if said.status != 200:
            if must_be_answered(kind) or not _is_sentence(said):
                return Judgement(Status.FAILED, f"a {kind} is answered with {_told(said)}", compared + 1, image=evidence.sample)
            refused.append(kind)
            continue
        compared += 1
        words = unequal(served.answers.get(f"plain {kind}"), served.answers.get(f"file {kind}"))
        if words:
            reason = f"a {kind} is answered otherwise than the picture that it shows: {words}"
            return Judgement(Status.FAILED, reason, compared, image=evidence.sample)
    more = f"; refused in a sentence: {', '.join(refused)}" if refused else ""
    return Judgement(Status.PASSED, f"{compared} kinds of picture file are answered as the pixels that they show{more}", compared)


def refuses(evidence: Evidence) -> Judgement:
    """Bad uploads are answered with a 4xx and a sentence, and the next good one is answered."""
    served = evidence.observed[Purpose.SERVING]
    names = [name.removeprefix("bad ") for name in served.replies if name.startswith("bad ")]
    for compared, name in enumerate(names, start=1):
        said, after = served.replies[f"bad {name}"], served.replies[f"after {name}"]
        if not _is_sentence(said):
            return Judgement(Status.FAILED, f"an upload that is wrong ({name}) is answered with {_told(said)}", compared)
        if after.status != 200:
            return Judgement(
                Status.FAILED, f"after an upload that is wrong ({name}), a good one is answered with {_told(after)}", compared
            )
    return Judgement(Status.PASSED, f"{len(names)} wrong uploads got a 4xx with a sentence, and the server lived", len(names))


def token(evidence: Evidence) -> Judgement:
    """Nothing is answered without the token."""
    served = evidence.observed[Purpose.SERVING]
    asked = [name for name in served.replies if name.startswith("token ")]
    if not asked:
        return Judgement(Status.DECLINED, "this service knows no token")
    # A route that it does not have answers nobody, with the token or without.
    names = [name for name in asked if not (name.endswith(f", {DRAW}") and _draws_nothing(served.replies["drawn"]))]
    for name in names:
        said = served.replies[name]
        if said.status not in _REFUSED:
            word, _, route = name.removeprefix("token ").partition(", ")
            return Judgement(Status.FAILED, f"/{route} with {word} token: {_told(said)}", len(names))
    return Judgement(Status.PASSED, "without the token and with a wrong one every route refuses", len(names))


def drawing(evidence: Evidence) -> Judgement:
    """The picture with drawn instances is, pixel for pixel, what the family's own drawing makes of the service's answer."""
    served = evidence.observed[Purpose.SERVING]
    said, here = served.replies["drawn"], served.replies.get("drawn here")
    if _draws_nothing(said):
        return Judgement(Status.DECLINED, f"this service draws nothing here: {_text(said.words) or said.status}")
    if here is None or here.status != 200:
        return Judgement(Status.FAILED, f"a picture with drawn instances is answered with {_told(here or said)}", 1)
    if said.words != here.words:
        return Judgement(Status.FAILED, "the drawing differs from the one of the same answer made here", 1, image=evidence.sample)
    return Judgement(Status.PASSED, "the drawing is the one of the same answer made here, pixel for pixel", 1)


def _draws_nothing(said: Reply) -> bool:
    return said.status in (404, 501)


def _is_sentence(said: Reply) -> bool:
    """A 4xx whose body is more than a word."""
    return 400 <= said.status < 500 and len(_text(said.words).split()) > 2


def _text(words: str) -> str:
    try:
        found = json.loads(words)
    except ValueError:
        return words
    return str(found.get("error", "")) if isinstance(found, dict) else words


def _told(said: Reply) -> str:
    return f"{said.status} and {_text(said.words)[:120]!r}" if said.words else f"{said.status} and no word"


def _check(name: str, title: str, asks: str, judge: Callable[[Evidence], Judgement], *, handles: bool = False) -> Check:
    needs = frozenset({Purpose.PARITY, Purpose.SERVING})
    return Check(f"serving.{name}", title, asks, needs, judge, handles=frozenset({Purpose.SERVING}) if handles else frozenset())


CHECKS = (
    _check(
        "wire",
        "The wire does not change the answer",
        "One picture as PNG, JPEG, JPEG rotated by EXIF, grey, with transparency, of sixteen bits, CMYK and WebP: each file is "
        "answered bit for bit as a PNG of the pixels that a viewer shows of it. The camera's rotation is applied, transparency "
        "keeps the stored colour, of sixteen bits the upper eight are kept. A service may refuse a kind in a sentence, but not PNG "
        "or JPEG. What usually breaks it: a decoder that ignores EXIF, or cuts sixteen bits off at 255. What to do: decode "
        "uploads yourself, as harness.serving.pictures does.",
        wire,
        handles=True,
    ),
    _check(
        "refuses",
        "Wrong uploads get a sentence, and the server lives",
        "A text, half a picture, a header that promises 200 megapixels, an empty file and a wrong field are each answered with a "
        "4xx and a sentence, and the good picture behind each is answered. What usually breaks it: an exception that becomes a "
        "500, or a decoder that takes the memory. What to do: look at the header before "
        "decoding, and answer with what is wrong.",
        refuses,
    ),
    _check(
        "token",
        "Without the token nothing is answered",
        "Where a token is set, a request without one and one with a wrong one are refused with 401 or 403, on the route of boxes "
        "and on the one of drawings. Services that know no token are declined. What usually breaks it: a check on one route only. "
        "What to do: ask for it before any route.",
        token,
    ),
    _check(
        "drawing",
        "The drawing is the stored model's",
        "A picture in, the picture with drawn instances out: pixel for pixel what the family's own drawing (Detectron2's "
        "Visualizer, torchvision.utils) makes of the service's own answer. What usually breaks it: channels exchanged before "
        "drawing, a drawing of the resized picture, a lossy file. What to do: draw on the picture as it was "
        "sent, and answer with a PNG.",
        drawing,
    ),
)
