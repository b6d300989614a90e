"""The demo page: an endpoint, a token and a picture in; the picture with its detections out, or in words why there are none.

The page runs on the person's own machine and knows nothing of the model: whatever answers as `harness.serving.answers` says can be
asked. Nothing is sent anywhere but to the endpoint that was typed in.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from harness.drawing import colour
from harness.errors import HarnessError, Unavailable, UsageError
from harness.serving.pictures import BadPicture, decoded
from harness.serving.places import bracketed, free_place
from harness.serving.settings import checked_token

if TYPE_CHECKING:
    from harness.detections import Pixels

_PATIENCE_S = 120
_LARGEST_REPLY_BYTES = 256 * 2**20
_LINE_PX = 2
_HEADERS = ("class", "score", "x1", "y1", "x2", "y2")


class NoAnswer(HarnessError):
    """The endpoint gave no detections; the sentence says what it did instead."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows: the picture with outlines, and a row a detection (`_HEADERS`), the best first."""

    picture: Pixels
    rows: list[list[Any]]


class _Told(BaseModel):
    """What the page needs of an answer; see `harness.serving.answers`."""

    model_config = ConfigDict(strict=True)

    height_px: int
    width_px: int
    boxes: list[Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]]
    scores: list[FiniteFloat]
    labels: list[Annotated[int, Field(ge=0, lt=2**31)]]
    classes: list[str]

    @model_validator(mode="after")
    def _fits(self) -> _Told:
        counts = {name: len(getattr(self, name)) for name in ("boxes", "scores", "labels", "classes")}
        if len(set(counts.values())) > 1:
            raise ValueError(", ".join(f"{count} {name}" for name, count in counts.items()))
        for x1, y1, x2, y2 in self.boxes:
            if x2 < x1 or y2 < y1:
                raise ValueError(f"the box {[x1, y1, x2, y2]} ends before it begins")
        return self


def ask(endpoint: str, token: str, content: bytes) -> Shown:
    """Post a picture file to ``endpoint``/detect. Raises `NoAnswer` in words for the person at the page."""
    told = _read(_answer(endpoint.strip().rstrip("/"), token.strip(), content))
    try:
        picture = decoded(content)
    except BadPicture as error:
        raise NoAnswer(f"The endpoint answered, but the picture cannot be shown: {error.what}.") from error
    height_px, width_px = picture.shape[:2]
    if (told.height_px, told.width_px) != (height_px, width_px):
        raise NoAnswer(
            f"The endpoint saw a picture of {told.width_px} x {told.height_px} pixels, this one has {width_px} x {height_px}."
        )
    found = sorted(zip(told.classes, told.labels, told.scores, told.boxes, strict=True), key=lambda one: -one[2])
    rows = [[name, round(score, 3), *(round(edge, 1) for edge in box)] for name, _, score, box in found]
    return Shown(_outlined(picture, found), rows)


def page(endpoint: str = "", token: str = "") -> Any:
    """The page as ``gradio.Blocks``, its fields filled in so. Raises `Unavailable` where Gradio is not installed."""
    gradio = _gradio()
    with gradio.Blocks(title="Detections", analytics_enabled=False) as blocks:
        gradio.Markdown("# Detections\nA picture goes to the endpoint, and to nobody else.")
        with gradio.Row():
            address = gradio.Textbox(endpoint, label="Endpoint", placeholder="http://127.0.0.1:3000")
            secret = gradio.Textbox(token, label="Token", type="password", placeholder="none")
        # No mode: the file goes out as it is, not decoded and written anew.
        picture = gradio.Image(label="Picture", type="filepath", image_mode=None, sources=["upload"])
        button = gradio.Button("Detect", variant="primary")
        said = gradio.Markdown(elem_id="said")
        shown = gradio.Image(label="Detections", format="png", interactive=False, elem_id="shown")
        table = gradio.Dataframe(headers=list(_HEADERS), label="Table", interactive=False)

        def clicked(endpoint: str, token: str, path: str | None) -> tuple[str, Any, list[list[Any]]]:
            if not path:
                return "Choose a picture first.", None, []
            try:
                found = ask(endpoint, token, Path(path).read_bytes())
            except NoAnswer as error:
                return _plain(error.what), None, []
            count = len(found.rows)
            return f"{count or 'No'} detection{'' if count == 1 else 's'}.", found.picture, found.rows

        button.click(clicked, [address, secret, picture], [said, shown, table], api_name=False)
    return blocks


@contextmanager
def showing(endpoint: str, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """The page, served until the end of the block; gives its address. Raises `UsageError` where the port is taken."""
    place = free_place(host, port)
    blocks = page(endpoint)
    try:
        # Gradio writes the address as it is given the host.
        _, address, _ = blocks.launch(
            server_name=bracketed(host),
            server_port=place.port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
        )
    except OSError as error:
        raise UsageError(f"the page cannot be shown at {host}:{place.port}: {error}", "Choose another --port.") from error
    try:
        yield address
    finally:
        blocks.close(verbose=False)


def _gradio() -> Any:
    # Before the import, which would ask after newer versions.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        cure = "pip install -c constraints.txt 'detection-harness[demo]'"
        raise Unavailable("the demo page needs Gradio, which is not installed", cure) from error
    return gradio


def _answer(endpoint: str, token: str, content: bytes) -> Any:
    if not endpoint.startswith(("http://", "https://")):
        raise NoAnswer("The endpoint must begin with http:// or https://, as in http://127.0.0.1:3000.")
    headers = {"Content-Type": "application/octet-stream"} | _authorization(token)
    try:
        request = urllib.request.Request(f"{endpoint}/detect", content, headers, method="POST")  # noqa: S310 - looked at above
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as reply:  # noqa: S310
            return json.loads(reply.read(_LARGEST_REPLY_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            said = _said(error)
        if error.code in (401, 403):
            raise NoAnswer(f"The endpoint refuses the token: {said or error.code}") from error
        blame = "refuses" if error.code < 500 else "failed"
        raise NoAnswer(f"The endpoint {blame} ({error.code}): {said or 'it does not say why.'}") from error
    except (OSError, ValueError, HTTPException, RecursionError) as error:
        # An address that is none, nobody there, no HTTP, no JSON.
        why = getattr(error, "reason", error)
        raise NoAnswer(f"Nothing that detects answers at {endpoint}: {why}") from error


def _authorization(token: str) -> dict[str, str]:
    if not token:
        return {}
    try:
        return {"Authorization": f"Bearer {checked_token(token)}"}
    except UsageError as error:
        raise NoAnswer(f"Nothing was sent: {error.what}.") from error


def _read(told: Any) -> _Told:
    if not isinstance(told, Mapping):
        raise NoAnswer("What answers there does not answer with detections.")
    try:
        return _Told.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NoAnswer(f"The endpoint's answer cannot be read: {where + ': ' if where else ''}{first['msg']}.") from error


def _said(error: urllib.error.HTTPError) -> str:
    try:
        body = error.read(2**20)
    except (OSError, HTTPException):
        # It hung up in the middle of its reason.
        return ""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace").strip()[:300]
    return str(told.get("error", told) if isinstance(told, Mapping) else told)[:300]


def _plain(sentence: str) -> str:
    """A server's words are text on this page, whatever they look like."""
    import html

    return html.escape(sentence, quote=False).translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]#|!~$"})


def _outlined(picture: Pixels, found: list[tuple[str, int, float, list[float]]]) -> Pixels:
    """A copy of the picture with boxes, names and scores."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for name, label, score, box in reversed(found):
        ink = colour(label)
        # Pillow takes no coordinate however large: what lies outside is not seen.
        x1, x2 = (min(max(edge, -_LINE_PX), image.width + _LINE_PX) for edge in box[::2])
        y1, y2 = (min(max(edge, -_LINE_PX), image.height + _LINE_PX) for edge in box[1::2])
        pen.rectangle([x1, y1, x2, y2], outline=ink, width=_LINE_PX)
        words = f"{name} {score:.0%}"
        # Inside the picture where the box touches its upper edge.
        at = (x1 + _LINE_PX, max(y1 - 12.0, 0.0))
        pen.rectangle(pen.textbbox(at, words), fill=ink)
        pen.text(at, words, fill=(0, 0, 0))
    pixels: Pixels = np.asarray(image)
    return pixels
