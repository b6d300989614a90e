"""DataFrames of base64: what goes in and comes out keeps every bit, and what is none is refused by its row."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.detections import Detections, Masks
from harness.errors import UsageError
from harness.families import family
from harness.fixtures.models import MODELS
from harness.serving.frames import IMAGE_COLUMN, BadFrame, DetectorFrames, images_to_bytearray_df
from harness.serving.logged import load_logged, log_model
from harness.serving.pictures import encoded
from harness.serving.store import NotStored, PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, pictures
from harness.suites.meta.harness.serving.commanded import commanded
from harness.suites.meta.harness.serving.test_service import post
from harness.types import ModelSpec

pd = pytest.importorskip("pandas")
pytestmark = [pytest.mark.covers("M14", "M15"), *THEIR_WARNINGS]


@pytest.fixture(scope="module", params=["tv_fasterrcnn_tiny", "tv_maskrcnn_tiny", "tv_keypointrcnn_tiny", "d2_maskrcnn_tiny"])
def frames(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DetectorFrames:
    if request.param.startswith("d2"):
        pytest.importorskip("detectron2")
    model = changed_in_memory(request.param, tmp_path_factory.mktemp("model") / "source")
    return DetectorFrames(model.spec, model.module, model.config, model.attached)


def frame_of_pictures() -> Any:
    return images_to_bytearray_df([encoded(picture) for picture in pictures()])


def test_every_bit_of_every_answer_comes_back(frames: DetectorFrames) -> None:
    back = frames.revert_predict_to_array(frames.predict(frame_of_pictures()))
    kind = family(frames.spec.family)
    wanted: list[Detections] = [kind.predict(frames.module, frames.config, [picture])[0] for picture in pictures()]
    assert sum(len(answer.scores) for answer in wanted) > 10
    assert len(back) == len(wanted)
    for (_, row), answer in zip(back.iterrows(), wanted, strict=True):
        assert np.array_equal(row["boxes"], answer.boxes_xyxy_px)
        assert np.array_equal(row["scores"], answer.scores)
        assert np.array_equal(row["labels"], answer.labels + kind.first_label)
        assert (row["boxes"].dtype, row["labels"].dtype, row["scores"].dtype) == (np.float32, np.int64, np.float32)
        assert row["boxes"].shape == (len(answer.scores), 4)
        assert row["boxes"].flags.writeable
        if answer.masks is not None:
            assert row["masks"].dtype == np.bool_
            assert row["masks"].shape == (len(answer.scores), *answer.masks.size_hw_px)
            assert all(np.array_equal(row["masks"][i], answer.masks.full(i)) for i in range(len(answer.scores)))
        if answer.keypoints is not None:
            assert np.array_equal(row["keypoints"], answer.keypoints)
            assert row["keypoints"].shape[1:] == answer.keypoints.shape[1:]
    assert tuple(back.columns) == frames.columns == ("boxes", "labels", "scores", *sorted(frames.spec.outputs))


FLOATS = st.floats(width=32)
"""NaN and infinity too: the wrapper carries what a detector gives."""

PICTURE = np.zeros((5, 7, 3), np.uint8)


@st.composite
def answers(draw: st.DrawFn) -> tuple[ModelSpec, list[Detections]]:
    """A model of either family, of boxes alone, with masks or with keypoints, and its answers; nothing found is one too."""
    base = MODELS[draw(st.sampled_from(["tv_maskrcnn_tiny", "d2_maskrcnn_tiny"]))]
    points = draw(st.integers(1, 5))
    named = replace(base, keypoints=tuple(f"k{at}" for at in range(points)))
    spec = draw(st.sampled_from([replace(base, task="detection"), base, replace(named, task="keypoints")]))
    masks, keypoints = "masks" in spec.outputs, "keypoints" in spec.outputs
    found = []
    for count in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
        full = draw(arrays.arrays(np.bool_, (count, *PICTURE.shape[:2]))) if masks else None
        found.append(
            Detections(
                draw(arrays.arrays(np.float32, (count, 4), elements=FLOATS)),
                draw(arrays.arrays(np.float32, count, elements=FLOATS)),
                draw(arrays.arrays(np.int64, count, elements=st.integers(0, 2**40))),
                masks=None if full is None else Masks.from_full(full),
                keypoints=draw(arrays.arrays(np.float32, (count, points, 3), elements=FLOATS)) if keypoints else None,
            )
        )
    return spec, found


@given(answers())
def test_whatever_a_detector_answers_comes_back(drawn: tuple[ModelSpec, list[Detections]]) -> None:
    spec, found = drawn
    frames = DetectorFrames(spec, None, None, {})
    text = pd.DataFrame([frames._row(answer, PICTURE) for answer in found], columns=list(frames.columns))
    text = pd.DataFrame(json.loads(text.to_json(orient="records")), columns=list(frames.columns))
    back = frames.revert_predict_to_array(text)
    assert tuple(back.columns) == ("boxes", "labels", "scores", *sorted(spec.outputs))
    for (_, row), answer in zip(back.iterrows(), found, strict=True):
        wanted = {
            "boxes": answer.boxes_xyxy_px,
            "labels": answer.labels + {"torchvision": 1, "detectron2": 0}[spec.family],
            "scores": answer.scores,
        }
        if answer.masks is not None:
            full = [answer.masks.full(at) for at in range(len(answer))]
            wanted["masks"] = np.stack(full) if full else np.zeros((0, *PICTURE.shape[:2]), np.bool_)
        if answer.keypoints is not None:
            wanted["keypoints"] = answer.keypoints
        told = {name: (array.dtype, array.shape, array.tobytes()) for name, array in wanted.items()}
        assert {name: (row[name].dtype, row[name].shape, row[name].tobytes()) for name in frames.columns} == told


def test_no_detection_keeps_its_shapes(frames: DetectorFrames) -> None:
    answer = family(frames.spec.family).predict(frames.module, frames.config, pictures()[:1])[0]
    row = frames._row(answer.take([]), pictures()[0])
    back = frames.revert_predict_to_array(pd.DataFrame([row])).iloc[0]
    height, width = pictures()[0].shape[:2]
    shapes = {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
        "masks": (0, height, width),
        "keypoints": (0, len(frames.spec.keypoints), 3),
    }
    assert {name: back[name].shape for name in frames.columns} == {name: shapes[name] for name in frames.columns}
    kinds = {"labels": np.int64, "masks": np.bool_}
    assert all(back[name].dtype == kinds.get(name, np.float32) for name in frames.columns)


def test_labels_are_the_models_own_and_say_so(frames: DetectorFrames) -> None:
    first = {"torchvision": 1, "detectron2": 0}[frames.spec.family]
    assert frames.label_names == {first + index: name for index, name in enumerate(frames.spec.classes)}
    back = frames.revert_predict_to_array(frames.predict(frame_of_pictures()))
    assert set(np.concatenate(list(back["labels"])).tolist()) <= set(frames.label_names)
    if frames.spec.family == "torchvision":
        import torch

        picture = torch.from_numpy(pictures()[0].copy()).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            raw = frames.module([picture])[0]["labels"].numpy()
        assert np.array_equal(back["labels"].iloc[0], raw)


def test_rows_keep_their_index_and_do_not_depend_on_each_other(frames: DetectorFrames) -> None:
    given = frame_of_pictures()
    given.index = ["a", "b", 7, "d"]
    together = frames.predict(given)
    assert list(together.index) == ["a", "b", 7, "d"]
    for name in given.index:
        assert frames.predict(given.loc[[name]]).equals(together.loc[[name]])


def test_frames_survive_json(frames: DetectorFrames) -> None:
    answers = frames.predict(frame_of_pictures())
    assert pd.DataFrame(json.loads(answers.to_json(orient="records"))).equals(answers)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DetectorFrames:
    model = changed_in_memory("tv_fasterrcnn_tiny", tmp_path_factory.mktemp("model") / "source")
    return DetectorFrames(model.spec, model.module, model.config, model.attached)


GOOD = base64.b64encode(encoded(np.zeros((40, 40, 3), np.uint8))).decode()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "has no row"),
        ({"image": [GOOD]}, "the columns are 'image'"),
        ({IMAGE_COLUMN: [GOOD], "more": [1]}, "'image_data', 'more'"),
        ({IMAGE_COLUMN: []}, "has no row"),
        ({IMAGE_COLUMN: [GOOD, "not base64!"]}, "row 1: this is no base64"),
        ({IMAGE_COLUMN: [GOOD, GOOD[:-3]]}, "row 1: this is no base64"),
        ({IMAGE_COLUMN: [GOOD, " " + GOOD]}, "row 1: this is no base64"),
        ({IMAGE_COLUMN: [GOOD, "ä"]}, "row 1: this is no base64"),
        ({IMAGE_COLUMN: [GOOD, ""]}, "row 1: the picture is empty"),
        ({IMAGE_COLUMN: [GOOD, base64.b64encode(b"text").decode()]}, "row 1: this is no picture"),
        ({IMAGE_COLUMN: [GOOD, None]}, "row 1: it holds a "),
        ({IMAGE_COLUMN: [GOOD, 3.5]}, "row 1: it holds a float"),
        ({IMAGE_COLUMN: [b"bytes"]}, "row 0: it holds a bytes"),
    ],
)
def test_what_is_no_frame_of_pictures_is_refused_and_the_row_named(
    small: DetectorFrames, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadFrame, match=words):
        small.predict(pd.DataFrame(given, dtype=object))


def test_what_is_no_frame_at_all_is_refused(small: DetectorFrames) -> None:
    with pytest.raises(BadFrame, match="the columns are none"):
        small.predict(pd.DataFrame(index=[0, 1]))
    with pytest.raises(BadFrame, match="it is a list and no DataFrame"):
        small.predict([GOOD])
    with pytest.raises(BadFrame, match="no picture"):
        images_to_bytearray_df([])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("boxes", base64.b64encode(bytes(20)).decode(), "row 0, column 'boxes'"),
        ("labels", base64.b64encode(bytes(7)).decode(), "row 0, column 'labels'"),
        ("scores", 1.5, "row 0, column 'scores': it holds a float"),
        ("masks", base64.b64encode(b"no npy").decode(), "row 0, column 'masks'"),
        ("speed", GOOD, "no answer has the column 'speed'"),
    ],
)
def test_what_is_no_frame_of_answers_is_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(BadFrame, match=words):
        DetectorFrames.revert_predict_to_array(pd.DataFrame({name: [value]}, dtype=object))


def test_an_array_of_objects_is_never_unpickled() -> None:
    from io import BytesIO

    file = BytesIO()
    np.save(file, np.array([[[print]]], dtype=object), allow_pickle=True)
    text = base64.b64encode(file.getvalue()).decode()
    with pytest.raises(BadFrame, match="Object arrays cannot be loaded"):
        DetectorFrames.revert_predict_to_array(pd.DataFrame({"keypoints": [text]}))


LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
torch.set_num_threads(1)
from harness.serving.logged import load_logged
frames, sample = load_logged(sys.argv[1])
Path(sys.argv[2]).write_text(frames.predict(sample).to_json(orient="records"))
"""


@pytest.mark.covers("M15")
def test_a_logged_model_answers_in_a_fresh_process_bit_for_bit(frames: DetectorFrames, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    sample = frame_of_pictures()
    store = PlainStore(tmp_path / "home")
    tag = log_model("my-detection-model", frames, {"predict": sample}, store)
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOAD, "my-detection-model", str(tmp_path / "answers.json")]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    assert pd.DataFrame(json.loads((tmp_path / "answers.json").read_text())).equals(frames.predict(sample))
    entry = store.get(str(tag))
    outputs = entry.attached["signatures"]["predict"]["outputs"]
    assert outputs["boxes"] == {"dtype": "float32", "shape": [-1, 4]}
    assert tuple(outputs) == frames.columns
    assert entry.attached["signatures"]["__call__"] == {"batchable": False}
    assert entry.attached["labels"] == frames.attached["labels"]


@pytest.mark.covers("M15")
def test_a_logged_model_is_served_and_answers_a_posted_dataframe_bit_for_bit(frames: DetectorFrames, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    sample = frame_of_pictures()
    tag = log_model("my-detection-model", frames, {"predict": sample}, PlainStore(tmp_path / "home"))
    body = json.dumps({"df": sample.to_dict(orient="records")}).encode()
    with commanded("my-detection-model:latest", tmp_path / "home", tmp_path) as command:
        url = command.url()
        assert command.said().startswith(f"{tag} at ")
        reply = post(f"{url}/predict", body, "application/json", token=None)
        command.end()
    assert reply.status == 200, reply.body
    answers, wanted = pd.DataFrame(reply.json), frames.predict(sample)
    assert answers.equals(wanted)
    back, arrays = frames.revert_predict_to_array(answers), frames.revert_predict_to_array(wanted)
    for name in frames.columns:
        for mine, theirs in zip(back[name], arrays[name], strict=True):
            assert (mine.dtype, mine.shape, mine.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def test_samples_of_anything_else_are_refused_and_nothing_is_stored(small: DetectorFrames, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    store = PlainStore(tmp_path / "home")
    with pytest.raises(UsageError, match="the samples are for explain, predict"):
        log_model("m", small, {"predict": frame_of_pictures(), "explain": None}, store)
    with pytest.raises(UsageError, match="for nothing"):
        log_model("m", small, {}, store)
    with pytest.raises(BadFrame, match="has no row"):
        log_model("m", small, {"predict": pd.DataFrame({IMAGE_COLUMN: []})}, store)
    assert store.list() == []
    with pytest.raises(NotStored):
        load_logged("m", store)


def test_a_model_that_was_stored_without_a_sample_still_loads(small: DetectorFrames, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    store = PlainStore(tmp_path / "home")
    store.save("plain", small)
    frames, sample = load_logged("plain", store)
    assert sample is None
    assert frames.predict(frame_of_pictures()).equals(small.predict(frame_of_pictures()))
    assert frames.spec == MODELS["tv_fasterrcnn_tiny"]
