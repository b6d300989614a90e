"""Services with one fault each, through the same requests as real ones: every fault is named by its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import wire
from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections, Pixels
from harness.drawing import drawn
from harness.serving.answers import from_json, to_json
from harness.serving.pictures import BadPicture, decoded, encoded
from harness.suites.meta.harness.answers import CELL, SPEC, detections, observed
from harness.types import Job, JobError, Observation, Purpose, Status, Variant

pytestmark = pytest.mark.covers("M5", "M21")
PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[:20, :15] = (200, 40, 10)
PICTURE[25:, 30:] = (5, 90, 180)


def seen(pixels: Pixels) -> Detections:
    """A detector of a kind: its answer is another for every other picture."""
    height, width = pixels.shape[:2]
    mean = float(pixels.astype(np.float64).mean()) / 255
    weighted = float((pixels.astype(np.float64) * np.arange(pixels.size).reshape(pixels.shape)).mean() % 1)
    return detections([(1 + weighted, 1, width - 1, height - 1)], [0.1 + 0.8 * mean])


@dataclass
class Service:
    """Sound unless told otherwise."""

    token: str | None = "secret"  # noqa: S105 - it guards nothing
    decode: Callable[[bytes], Pixels] = decoded
    refuse: Callable[[Exception], tuple[int, bytes]] = lambda error: (400, json.dumps({"error": str(error)}).encode())
    draw: Callable[[Pixels, Detections], bytes] = lambda pixels, answer: encoded(drawn(pixels, answer, SPEC))
    guards: tuple[str, ...] = ("detect", "draw")
    draws: bool = True
    any_field: bool = False
    dies_of: str = "nothing"
    dead: bool = field(default=False)

    def post(self, route: str, body: bytes, kind: str, token: str | None) -> tuple[int, str, bytes]:
        head, _, rest = body.partition(b"\r\n\r\n")
        if self.dead:
            return 500, "text/plain", b""
        if route == "draw" and not self.draws:
            return 404, "text/plain", b"Not Found"
        if route in self.guards and self.token is not None and token != self.token:
            return 401, "application/json", b'{"error": "a token is needed"}'
        if b'name="image"' not in head and not self.any_field:
            return 400, "application/json", b'{"error": "send the field image"}'
        try:
            return self._answered(route, self.decode(rest.removesuffix(b"\r\n--harness--\r\n")))
        except (BadPicture, OSError, Image.DecompressionBombError) as error:
            self.dead = self.dies_of in str(error)
            status, said = self.refuse(error)
            return status, "application/json", said

    def _answered(self, route: str, pixels: Pixels) -> tuple[int, str, bytes]:
        if route == "draw":
            return 200, "image/png", self.draw(pixels, seen(pixels))
        return 200, "application/json", json.dumps(to_json(seen(pixels), pixels, SPEC)).encode()

    def read(self, body: bytes, picture: bytes) -> Detections:
        return from_json(json.loads(body), SPEC)


def judged(check: str, service: Service) -> Judgement:
    answers, replies = wire.run(service, SPEC, PICTURE, lambda _: None)
    return judge(CHECKS[check], evidence_of(Observation(Job(CELL, Purpose.SERVING), answers=answers, replies=replies)))


def evidence_of(served: Observation) -> Evidence:
    parity = observed({"one": seen(PICTURE)})
    jobs = {Purpose.PARITY: parity, Purpose.SERVING: served}
    return Evidence(CELL, SPEC, Variant("f32"), jobs, {}, (), (), dict, "one")


def as_pillow(content: bytes) -> Pixels:
    """What many services do: no rotation, sixteen bits cut off at 255."""
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("check", ["serving.wire", "serving.refuses", "serving.token", "serving.drawing"])
def test_a_sound_service_passes(check: str) -> None:
    found = judged(check, Service())
    assert found.status is Status.PASSED, found.reason
    assert found.compared > 0


def bgr(pixels: Pixels, answer: Detections) -> bytes:
    return encoded(np.ascontiguousarray(drawn(np.ascontiguousarray(pixels[:, :, ::-1]), answer, SPEC)))


def lossy(pixels: Pixels, answer: Detections) -> bytes:
    content = BytesIO()
    Image.fromarray(drawn(pixels, answer, SPEC)).save(content, format="JPEG", quality=80)
    return content.getvalue()


def as_only(kind: str, content: bytes) -> Pixels:
    if Image.open(BytesIO(content)).format != kind:
        raise BadPicture("only one kind of picture is read here")
    return decoded(content)


def forgiving(content: bytes) -> Pixels:
    try:
        return decoded(content)
    except BadPicture as error:
        if "damaged" in str(error):
            return PICTURE
        raise


FAULTS: dict[str, tuple[str, Service, str]] = {
    "EXIF ignored": ("serving.wire", Service(decode=as_pillow), "a jpeg, rotated by EXIF is answered otherwise"),
    "channels exchanged": (
        "serving.wire",
        Service(decode=lambda content: decoded(content)[:, :, ::-1] if content[:2] == b"\xff\xd8" else decoded(content)),
        "a jpeg is answered otherwise",
    ),
    "a kind refused without a word": (
        "serving.wire",
        Service(decode=lambda content: as_only("JPEG", content), refuse=lambda _: (500, b"")),
        "a png is answered with 500 and no word",
    ),
    "png refused": ("serving.wire", Service(decode=lambda content: as_only("JPEG", content)), "a png is answered with 400"),
    "an error of its own": (
        "serving.refuses",
        Service(refuse=lambda _: (500, b"Internal Server Error")),
        "(no picture) is answered with 500",
    ),
    "no sentence": ("serving.refuses", Service(refuse=lambda _: (400, b"no")), "(no picture) is answered with 400 and 'no'"),
    "answers half a picture": (
        "serving.refuses",
        Service(decode=forgiving),
        "(truncated) is answered with 200",
    ),
    "takes any field": (
        "serving.refuses",
        Service(any_field=True),
        "(wrong field) is answered with 200",
    ),
    "dies": (
        "serving.refuses",
        Service(dies_of="too large"),
        "after an upload that is wrong (200 megapixels), a good one is answered with 500",
    ),
    "no guard": ("serving.token", Service(guards=()), "/detect with none token: 200"),
    "one route without a guard": ("serving.token", Service(guards=("detect",)), "/draw with none token: 200"),
    "the other without a guard": ("serving.token", Service(guards=("draw",)), "/detect with none token: 200"),
    "drawn on exchanged channels": ("serving.drawing", Service(draw=bgr), "the drawing differs"),
    "drawn lossily": ("serving.drawing", Service(draw=lossy), "the drawing differs"),
    "no picture drawn": ("serving.drawing", Service(draw=lambda *_: b"none"), "is answered with"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named(name: str) -> None:
    check, service, words = FAULTS[name]
    found = judged(check, replace(service))
    assert found.status is Status.FAILED
    assert words in found.reason


def test_a_kind_may_be_refused_in_a_sentence() -> None:
    def some(content: bytes) -> Pixels:
        if Image.open(BytesIO(content)).format == "WEBP":
            raise BadPicture("webp is not read here, sorry")
        return decoded(content)

    found = judged("serving.wire", Service(decode=some))
    assert found.status is Status.PASSED
    assert "refused in a sentence: webp" in found.reason


def test_what_a_service_does_not_offer_is_declined() -> None:
    assert judged("serving.token", Service(token=None)).status is Status.DECLINED
    assert judged("serving.drawing", Service(draws=False)).status is Status.DECLINED
    assert judged("serving.token", Service(draws=False)).status is Status.PASSED


def test_a_job_that_broke_is_told_once() -> None:
    broken = Observation(Job(CELL, Purpose.SERVING), error=JobError("raised", "open", "no port"))
    told: dict[str, Any] = {
        name: judge(CHECKS[f"serving.{name}"], evidence_of(broken)) for name in ("wire", "refuses", "token", "drawing")
    }
    assert told["wire"].status is Status.ERRORED
    assert "no port" in told["wire"].reason
    assert {told[name].status for name in ("refuses", "token", "drawing")} == {Status.DECLINED}
    assert "see serving.wire" in told["token"].reason
