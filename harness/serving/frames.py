"""A detector that takes and gives pandas DataFrames of base64 text: what tabular model servers pass on.

One row is one picture. In: one column ``image_data``, the bytes of a picture file. Out: ``boxes`` (float32 ``[N, 4]``, XYXY in
pixels of the picture), ``labels`` (int64 ``[N]``), ``scores`` (float32 ``[N]``, 0..1), each the bytes of the array in C order,
little endian; ``masks`` (bool ``[N, H, W]``) and ``keypoints`` (float32 ``[N, K, 3]``) of a detector that has them, as ``.npy``
files, because their shape cannot be told from their length. Labels are the model's own: torchvision counts classes from 1,
Detectron2 from 0; `DetectorFrames.label_names` has the names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from harness.families import family
from harness.serving.pictures import LARGEST_PX, BadPicture, decoded

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.types import ModelSpec

IMAGE_COLUMN = "image_data"
_RAW: Mapping[str, tuple[str, tuple[int, ...]]] = {"boxes": ("<f4", (-1, 4)), "labels": ("<i8", (-1,)), "scores": ("<f4", (-1,))}
_NPY: Mapping[str, tuple[str, int]] = {"masks": ("|b1", 3), "keypoints": ("<f4", 3)}


class BadFrame(UsageError):
    """A DataFrame that is none of pictures, or none of answers; the sentence names the row."""


def images_to_bytearray_df(images: Iterable[str | Path | bytes]) -> Any:
    """The DataFrame that `DetectorFrames.predict` takes: files by their paths, or their bytes. Raises `BadFrame` for none."""
    import pandas as pd

    rows = [_text(image if isinstance(image, bytes) else Path(image).read_bytes()) for image in images]
    if not rows:
        raise BadFrame("there is no picture", "Give at least one.")
    return pd.DataFrame({IMAGE_COLUMN: rows})


@dataclass(frozen=True, slots=True, eq=False)
class DetectorFrames:
    """A live detector of either family behind DataFrames.

    ``attached`` is what is stored beside the model (`Model.attached`), so that an object of this class can be stored as it is.
    ``largest_px`` is height times width that is decoded at most; it is not stored.
    """

    spec: ModelSpec
    module: Any
    config: Any
    attached: Mapping[str, Any]
    largest_px: int = LARGEST_PX

    @property
    def label_names(self) -> dict[int, str]:
        """The class names by the labels that `predict` gives."""
        return dict(enumerate(self.spec.classes, start=family(self.spec.family).first_label))

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of every answer."""
        return (*_RAW, *(name for name in _NPY if name in self.spec.outputs))

    def predict(self, df: Any) -> Any:
        """A DataFrame of answers, a row a picture, with the index of ``df``. Raises `BadFrame`; nothing is answered then."""
        import pandas as pd

        pictures = [_picture(row, value, self.largest_px) for row, value in _column(df, IMAGE_COLUMN)]
        kind = family(self.spec.family)
        answers = [kind.predict(self.module, self.config, [picture])[0] for picture in pictures]
        rows = [self._row(answer, picture) for answer, picture in zip(answers, pictures, strict=True)]
        return pd.DataFrame(rows, index=df.index, columns=list(self.columns))

    @staticmethod
    def revert_predict_to_array(predictions: Any) -> Any:
        """The DataFrame that `predict` gave with arrays in place of text, of the dtypes and shapes that the module tells.

        Raises `BadFrame` naming row and column.
        """
        import pandas as pd

        unknown = sorted(map(str, set(predictions.columns) - {*_RAW, *_NPY}))
        if unknown:
            raise BadFrame(f"no answer has the column {unknown[0]!r}", f"Valid: {', '.join((*_RAW, *_NPY))}")
        arrays = {name: [_array(name, row, value) for row, value in predictions[name].items()] for name in predictions.columns}
        # Array by array: pandas would make columns of arrays that have one length.
        return pd.DataFrame({name: pd.Series(values, index=predictions.index, dtype=object) for name, values in arrays.items()})

    def signature(self, df: Any) -> dict[str, Any]:
        """What `predict` takes and gives, by column, seen on a sample: dtypes, and shapes with -1 for what varies."""
        seen = self.revert_predict_to_array(self.predict(df)).iloc[0]
        shapes = {name: [-1, 4] if name == "boxes" else [-1] * seen[name].ndim for name in self.columns}
        return {
            "inputs": {IMAGE_COLUMN: "base64 text of a picture file"},
            "outputs": {name: {"dtype": seen[name].dtype.name, "shape": shapes[name]} for name in self.columns},
        }

    def _row(self, answer: Detections, picture: Pixels) -> dict[str, str]:
        found = {
            "boxes": answer.boxes_xyxy_px,
            "labels": answer.labels + family(self.spec.family).first_label,
            "scores": answer.scores,
        }
        row = {name: _text(np.ascontiguousarray(found[name], dtype=dtype).tobytes()) for name, (dtype, _) in _RAW.items()}
        for name in self.columns[len(_RAW) :]:
            row[name] = _text(_npy(_stacked(name, answer, picture)))
        return row


def _stacked(name: str, answer: Detections, picture: Pixels) -> Any:
    if name == "keypoints":
        return answer.keypoints
    masks = answer.masks
    full = [] if masks is None else [masks.full(index) for index in range(len(masks))]
    return np.stack(full) if full else np.zeros((0, *picture.shape[:2]), np.bool_)


def _column(df: Any, name: str) -> list[tuple[Any, Any]]:
    """The rows of the only column. Raises `BadFrame` unless there is that column, no other, and a row."""
    wanted = f"Give a DataFrame with the one column {name!r}: see images_to_bytearray_df."
    if not hasattr(df, "columns"):
        raise BadFrame(f"it is a {type(df).__name__} and no DataFrame", wanted)
    # First: what is made of no rows has no columns either.
    if not len(df):
        raise BadFrame("the DataFrame has no row", "Give at least one picture.")
    if list(df.columns) != [name]:
        raise BadFrame(f"the columns are {', '.join(map(repr, df.columns)) or 'none'}", wanted)
    return list(df[name].items())


def _picture(row: Any, value: Any, largest_px: int) -> Pixels:
    try:
        return decoded(_bytes(value), largest_px)
    except (BadFrame, BadPicture) as error:
        raise BadFrame(f"row {row!r}: {error.what}", error.cure) from error


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise BadFrame(f"it holds a {type(value).__name__} and no text", "Encode the bytes with base64.")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise BadFrame(f"this is no base64: {error}", "Encode the bytes of the file, nothing before or behind.") from error


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _npy(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(name: str, row: Any, value: Any) -> Any:
    read: Callable[[str, bytes], Any] = _read_raw if name in _RAW else _read_npy
    try:
        return read(name, _bytes(value))
    except (BadFrame, ValueError, EOFError, OSError) as error:
        why = error.what if isinstance(error, BadFrame) else str(error)
        raise BadFrame(f"row {row!r}, column {name!r}: {why}", "Give what `predict` gave.") from error


def _read_raw(name: str, content: bytes) -> Any:
    dtype, shape = _RAW[name]
    # A copy: what frombuffer gives cannot be written to.
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()


def _read_npy(name: str, content: bytes) -> Any:
    dtype, axes = _NPY[name]
    array = np.load(BytesIO(content), allow_pickle=False)
    if array.dtype != np.dtype(dtype) or array.ndim != axes:
        raise ValueError(f"it is {array.dtype} of {array.ndim} axes, not {np.dtype(dtype)} of {axes}")
    return array
