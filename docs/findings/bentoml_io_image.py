"""``bentoml.io.Image`` hands an upload on as Pillow opened it: not turned as its EXIF says, not in the mode it names, not decoded.

A service that was told ``pilmode="RGB"``, the default, gets a grey picture in mode L and a photograph on its side. Half a file
and one that promises 200 megapixels are not refused: the first fails later, in the service's own code, the second with an error
that is none of BentoML's, and both become a 500. Exits with 0 where the fault is there, 1 where it is not.
"""

import asyncio
import os
import struct
import sys
import tempfile
import warnings
import zlib
from io import BytesIO

os.environ |= {"BENTOML_HOME": tempfile.mkdtemp(), "BENTOML_DO_NOT_TRACK": "True"}

import bentoml
from bentoml.exceptions import BentoMLException
from PIL import Image
from starlette.requests import Request

warnings.simplefilter("ignore")


def _upload(content: bytes) -> Image.Image:
    """What a service's function is given."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": content, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}
    return asyncio.run(bentoml.io.Image(pilmode="RGB").from_http_request(Request(scope, receive)))


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    content = BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


exif = Image.Exif()
exif[0x0112] = 6  # to be turned a quarter to the right
turned = _upload(_file(Image.new("RGB", (60, 40), "red"), "JPEG", exif=exif))
grey = _upload(_file(Image.new("L", (60, 40), 90), "PNG"))

whole = _file(Image.effect_noise((60, 40), 50), "PNG")
try:
    half = _upload(whole[: len(whole) // 2])
    half.load()
    later = ""
except BentoMLException:
    later = ""
except OSError as error:
    later = f"{type(error).__name__} when it is used"

head = bytearray(whole)
head[16:24] = struct.pack(">II", 20_000, 10_000)
head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
try:
    _upload(bytes(head))
    bomb = ""
except BentoMLException:
    bomb = ""
except Exception as error:  # noqa: BLE001 - whatever it raises is told
    bomb = type(error).__name__

if turned.size != (60, 40) and grey.mode == "RGB" and not later and not bomb:
    print("not shown: the upload was turned, converted, and refused where it was bad")
    sys.exit(1)
print(
    f"SHOWN: a photograph of 40 x 60 arrives as {turned.size[0]} x {turned.size[1]}; a grey picture arrives in mode {grey.mode} "
    f"where RGB was asked; half a file raises {later or 'nothing'}; 200 megapixels raise {bomb or 'nothing'}"
)
