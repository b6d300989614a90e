"""What a served detector is asked besides the deck: one picture in every kind of file, and what clients do wrong.

A case is data. `run` posts them all through an open session and keeps what came back under names of its own, for
`harness.checks.serving` to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.drawing import drawn
from harness.serving.pictures import BadPicture, decoded, encoded
from harness.types import Reply

if TYPE_CHECKING:
    from harness.adapters import ServedSession
    from harness.detections import Detections, Pixels
    from harness.types import ModelSpec

DETECT, DRAW = "detect", "draw"
FIELD = "image"
_MULTIPART = "multipart/form-data; boundary=harness"
_MUST = ("png", "jpeg")
_ROTATED = 6
"""EXIF: to be turned a quarter to the right."""

_MEGAPIXELS_200 = (20_000, 10_000)


@dataclass(frozen=True, slots=True)
class Upload:
    """The body of a request and its content type."""

    body: bytes
    kind: str


def files(picture: Pixels) -> dict[str, bytes]:
    """A picture, ``uint8 [H, W, 3]``, in every kind of file that clients send."""
    from PIL import Image

    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = _ROTATED
    grey = np.asarray(image.convert("L"))
    return {
        "png": _file(image, "PNG"),
        "jpeg": _file(image, "JPEG", quality=90),
        "jpeg, rotated by EXIF": _file(image, "JPEG", quality=90, exif=exif),
        "grey png": _file(Image.fromarray(grey), "PNG"),
        "png with transparency": _file(Image.fromarray(np.dstack([picture, grey])), "PNG"),
        "png of sixteen bits": _file(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "cmyk jpeg": _file(image.convert("CMYK"), "JPEG", quality=90),
        "webp": _file(image, "WEBP", lossless=True),
    }


def bad_uploads(picture: Pixels) -> dict[str, Upload]:
    """What clients send by mistake or on purpose; the first two hundred megapixels are a header without any pixel."""
    good = encoded(picture)
    return {
        "no picture": form(b"this is a text"),
        "truncated": form(good[: len(good) // 2]),
        "200 megapixels": form(_header(good, *_MEGAPIXELS_200)),
        "empty": form(b""),
        "wrong field": form(good, field="photograph"),
    }


def form(content: bytes, field: str = FIELD) -> Upload:
    """One file in a multipart form."""
    head = f'--harness\r\nContent-Disposition: form-data; name="{field}"; filename="picture.png"\r\nContent-Type: image/png\r\n\r\n'
    return Upload(head.encode() + content + b"\r\n--harness--\r\n", _MULTIPART)


def run(
    session: ServedSession, spec: ModelSpec, picture: Pixels, enter: Callable[[str], None]
) -> tuple[dict[str, Detections], dict[str, Reply]]:
    """Answers and replies by name.

    Answers: ``file KIND`` to a picture file, ``plain KIND`` to the same picture as a PNG of its decoded pixels. Replies, each with
    what the service said: ``file KIND``; ``bad NAME`` and the good upload behind it, ``after NAME``; ``token none, ROUTE`` and
    ``token wrong, ROUTE`` where the service has a token; ``drawn``, whose words are the SHA-256 of the pixels, and ``drawn here``,
    of what this process draws of the service's own answer.
    """
    answers: dict[str, Detections] = {}
    replies: dict[str, Reply] = {}
    for kind, content in files(picture).items():
        enter(f"a picture as {kind}")
        plain = encoded(decoded(content))
        for name, sent in ((f"file {kind}", content), (f"plain {kind}", plain)):
            replies[name], body = _posted(session, form(sent), session.token)
            if replies[name].status == 200:
                answers[name] = session.read(body, sent)
    for name, upload in bad_uploads(picture).items():
        enter(f"a bad upload, {name}")
        replies[f"bad {name}"], _ = _posted(session, upload, session.token)
        replies[f"after {name}"], _ = _posted(session, form(encoded(picture)), session.token)
    if session.token is not None:
        enter("the token")
        for route in (DETECT, DRAW):
            for word, given in (("none", None), ("wrong", session.token + "x")):
                replies[f"token {word}, {route}"], _ = _posted(session, form(encoded(picture)), given, route)
    enter("the drawing")
    replies |= _drawings(session, spec, picture, answers.get("file png"))
    return answers, replies


def told_kinds(names: Mapping[str, Any]) -> list[str]:
    """The kinds of file among the names that `run` gave."""
    return [name.removeprefix("file ") for name in names if name.startswith("file ")]


def must_be_answered(kind: str) -> bool:
    """Whether every service has to read this kind of file."""
    return kind in _MUST


def _drawings(session: ServedSession, spec: ModelSpec, picture: Pixels, answer: Detections | None) -> dict[str, Reply]:
    upload = form(encoded(picture))
    status, kind, body = session.post(DRAW, upload.body, upload.kind, session.token)
    if status != 200 or answer is None:
        return {"drawn": Reply(status, kind, _sentence(body))}
    try:
        served = decoded(body)
    except BadPicture as error:
        return {"drawn": Reply(status, kind, ""), "drawn here": Reply(0, "", str(error))}
    here = drawn(picture, answer, spec)
    return {"drawn": Reply(status, kind, _digest(served)), "drawn here": Reply(200, "", _digest(here))}


def _posted(session: ServedSession, upload: Upload, token: str | None, route: str = DETECT) -> tuple[Reply, bytes]:
    status, kind, body = session.post(route, upload.body, upload.kind, token)
    return Reply(status, kind, "" if status == 200 else _sentence(body)), body


def _sentence(body: bytes) -> str:
    return body.decode("utf-8", "replace")[:500]


def _digest(pixels: Pixels) -> str:
    return f"{list(pixels.shape)} {sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _file(image: Any, kind: str, **options: Any) -> bytes:
    content = BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def _header(png: bytes, width: int, height: int) -> bytes:
    """A PNG file that says that it is of another size."""
    import struct
    import zlib

    head = bytearray(png[:33])
    head[16:24] = struct.pack(">II", width, height)
    head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
    return bytes(head) + png[33:]
