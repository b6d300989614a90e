"""One process's sweep, on a detector whose time and answers are made up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import levels
from harness.detections import Detections, Pixels
from harness.sweep import (
    EQUAL,
    PADDED,
    PICTURES,
    Bounds,
    Mixed,
    Watch,
    answer_name,
    is_out_of_memory,
    mixed_batch,
    mixed_words,
    read_name,
    sweep,
)
from harness.timings import Sweep, Used

pytestmark = pytest.mark.covers("M19")
NAMES = ("a", "b", "c", "d", "e")
PIXELS = {name: np.full((8, 8, 3), n, np.uint8) for n, name in enumerate(NAMES)}


def one(x: float) -> Detections:
    return Detections(np.array([[x, 0, x + 4, 4]], np.float32), np.array([0.9], np.float32), np.array([1], np.int64))


class Made:
    """A detector on a clock that only its calls move: ``call_s`` says how long a call with so many images takes."""

    def __init__(self, call_s: Callable[[int], float], answer: Callable[[int, int], Detections] = lambda n, _: one(n)) -> None:
        self.now, self.asked, self._call_s, self._answer = 0.0, [], call_s, answer  # type: ignore[var-annotated]

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        self.asked.append([int(image[0, 0, 0]) for image in images])
        self.now += self._call_s(len(images))
        return [self._answer(int(image[0, 0, 0]), len(self.asked)) for image in images]

    def swept(self, bounds: Bounds | None = None, pictures: dict[str, Pixels] = PIXELS) -> tuple[Sweep, dict[str, Detections]]:
        return sweep(self.predict, pictures, "a loop", bounds or Bounds(60.0), Watch(clock=lambda: self.now))


def test_a_sweep_goes_on_while_larger_batches_pay_and_twice_in_vain() -> None:
    found, _ = Made(lambda batch: 0.010 + 0.005 * batch if batch <= 8 else 0.00625 * batch).swept()
    assert [point.batch for point in found.points] == [1, 2, 4, 8, 16, 32]
    assert [point.kind for point in found.points] == ["one image", *["a loop"] * 5]
    assert all(point.steady and point.warm for point in found.points)
    assert not any(point.stopped for point in found.points)


def test_a_loop_that_gains_nothing_ends_at_once() -> None:
    found, _ = Made(lambda batch: 0.01 * batch).swept()
    assert [point.batch for point in found.points] == [1, 2, 4]


def test_the_largest_batch_ends_a_sweep_that_would_go_on() -> None:
    found, _ = Made(lambda _: 0.01).swept(Bounds(60.0, largest=8))
    assert [point.batch for point in found.points] == [1, 2, 4, 8]


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")], ids=str)
def test_out_of_memory_is_a_result(error: Exception) -> None:
    def call_s(batch: int) -> float:
        if batch == 4:
            raise error
        return 0.01

    found, answers = Made(call_s).swept()
    assert [(point.batch, bool(point.stopped)) for point in found.points] == [(1, False), (2, False), (4, True)]
    assert found.points[-1].stopped.startswith("out of memory: ")
    assert {read_name(name)[0] for name in answers} == {1, 2}
    assert found.again_s


def test_what_does_not_fit_is_not_tried() -> None:
    found, _ = Made(lambda _: 0.01).swept(Bounds(60.0, room=lambda batch: "it would need 7 GiB of 6" if batch == 2 else ""))
    assert [(point.batch, point.stopped) for point in found.points] == [(1, ""), (2, "it would need 7 GiB of 6")]


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("shapes do not fit")], ids=str)
def test_what_fails_with_one_image_or_otherwise_is_raised(error: Exception) -> None:
    def call_s(batch: int) -> float:
        if batch == 2 or isinstance(error, MemoryError):
            raise error
        return 0.01

    with pytest.raises(type(error), match=str(error)):
        Made(call_s).swept()


def test_a_sweep_ends_with_its_time() -> None:
    """The last point has what was left, and says that it is not steady."""
    made = Made(lambda batch: 0.05 + 0.01 * batch)
    found, _ = made.swept(Bounds(8.0))
    assert [(point.batch, point.steady) for point in found.points] == [(1, True), (2, True), (4, False)]
    assert sum(point.spent_s for point in found.points) < 8.0 + 0.2
    assert not made.swept(Bounds(8.0, audited=False))[0].again_s


def test_pictures_go_in_turn_and_stand_at_every_place_of_a_batch() -> None:
    made = Made(lambda batch: 0.01 * batch)
    found, _ = made.swept(Bounds(60.0, audited=False))
    assert {n for call in made.asked for n in call} == set(range(PICTURES))
    assert made.asked[:4] == [[0], [1], [2], [3]]
    assert [call for call in made.asked if len(call) == 2][:4] == [[0, 1], [1, 2], [2, 3], [3, 0]]
    for point in found.points:
        assert point.images == point.detections == point.batch * (1 + point.calls * len(point.seconds))


def test_every_different_answer_of_the_timed_loop_is_kept() -> None:
    """Of one that answers otherwise in batches, and once in a while."""
    made = Made(lambda batch: 0.01 * batch, lambda n, call: one(n + (0.5 if call % 7 == 0 else 0.0)))
    _, answers = made.swept(pictures={"a": PIXELS["a"], "b": PIXELS["b"]})
    assert set(answers) == {answer_name(batch, name, other) for batch in (1, 2, 4) for name in "ab" for other in (0, 1)}
    assert sorted(float(answers[answer_name(1, "b", other)].boxes_xyxy_px[0, 0]) for other in (0, 1)) == [1.0, 1.5]
    _, steady = Made(lambda batch: 0.01 * batch).swept()
    assert set(steady) == {answer_name(batch, name) for batch in (1, 2, 4) for name in NAMES[:PICTURES]}


def test_an_answer_too_few_is_told() -> None:
    class Short(Made):
        def predict(self, images: Sequence[Pixels]) -> list[Detections]:
            return super().predict(images)[: max(1, len(images) - 1)]

    with pytest.raises(ValueError, match="answered 1 times for 2 images"):
        Short(lambda _: 0.01).swept()


def test_the_audit_asks_for_pictures_that_nobody_asked_before_and_once_more() -> None:
    made = Made(lambda batch: 0.01 * batch)
    found, _ = made.swept(pictures={"e": PIXELS["e"]})
    before, audit = made.asked[: -2 * levels.MEDIAN_SAMPLES], made.asked[-2 * levels.MEDIAN_SAMPLES :]
    assert audit[::2] == audit[1::2]
    assert len({call[0] for call in audit}) == levels.MEDIAN_SAMPLES
    assert not {call[0] for call in audit} & {n for call in before for n in call}
    assert len(found.fresh_s) == len(found.again_s) == levels.MEDIAN_SAMPLES
    assert found.fresh_s == pytest.approx(found.again_s)
    assert {int(image[0, 0, 0]) for image in PIXELS.values()} == set(range(len(NAMES)))


@pytest.mark.parametrize("kept", [1, 1000])
def test_one_that_keeps_answers_shows_in_the_audit(kept: int) -> None:
    """The last answer alone, or all of them."""
    made = Made(lambda _: 0.0)
    known: list[bytes] = []

    def predict(images: Sequence[Pixels]) -> list[Detections]:
        for image in images:
            made.now += 0.0001 if image.tobytes() in known[-kept:] else 0.01
            known.append(image.tobytes())
        return [one(0.0)] * len(images)

    found, _ = sweep(predict, PIXELS, "a loop", Bounds(2.0), Watch(clock=lambda: made.now))
    assert max(found.again_s) < min(found.fresh_s) / 50


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 0.05), st.floats(0.0005, 0.02), st.integers(0, 2**16))
def test_a_sweep_measures_what_calls_take(base_s: float, image_s: float, seed: int) -> None:
    noise = np.random.default_rng(seed)
    found, _ = Made(lambda batch: (base_s + image_s * batch) * float(np.exp(noise.normal(0, 0.002)))).swept(Bounds(60.0, largest=8))
    for point in found.points:
        assert float(np.median(point.warm)) == pytest.approx(base_s + image_s * point.batch, rel=0.01)


SEVERAL = {
    "low": np.full((6, 9, 3), 7, np.uint8),
    "high": np.full((9, 6, 3), 8, np.uint8),
    "wide": np.full((4, 20, 3), 9, np.uint8),
}


def swept_apart(made: Made, seconds: float = 60.0) -> tuple[Sweep, dict[str, Detections]]:
    """Pictures of one size, and of three."""
    mixed = Mixed(made.predict, SEVERAL, PADDED)
    return sweep(made.predict, PIXELS, "a loop", Bounds(seconds), Watch(clock=lambda: made.now), lambda: mixed)


def test_pictures_of_several_sizes_are_a_curve_apart() -> None:
    made = Made(lambda batch: 0.010 + 0.005 * batch if batch <= 6 else 0.00625 * batch)
    found, answers = swept_apart(made)
    assert [(point.batch, point.kind) for point in found.mixed] == [(1, "one image"), *[(b, PADDED) for b in (3, 6, 12, 24, 48)]]
    assert all(point.steady for point in found.mixed)
    assert [point.batch for point in found.points] == [1, 2, 4, 8, 16, 32]
    assert found.at(3, "mixed") is found.mixed[1]
    assert found.at(3) is None
    of_several = {name for name in answers if mixed_batch(read_name(name)[0]) is not None}
    assert of_several == {answer_name(mixed_words(batch), name) for batch in (1, 3, 6, 12, 24, 48) for name in SEVERAL}
    assert {read_name(name)[0] for name in answers.keys() - of_several} == {1, 2, 4, 8, 16, 32}


def test_every_batch_of_several_sizes_has_the_largest() -> None:
    """So that what is padded is padded alike, whichever picture comes first."""
    made = Made(lambda _: 0.01)
    swept_apart(made, 20.0)
    batches = [set(call) for call in made.asked if len(call) > 1 and call[0] >= 7]
    assert batches
    assert all(batch == {7, 8, 9} for batch in batches)


def test_pictures_of_several_sizes_have_their_share_of_the_time() -> None:
    made = Made(lambda batch: 0.05 + 0.001 * batch)
    found, _ = swept_apart(made, 20.0)
    taken = [sum(point.spent_s for point in found.of(sizes)) for sizes in ("equal", "mixed")]
    assert taken[0] <= EQUAL * 20 + 0.2
    assert (1 - EQUAL) * 20 - 0.2 <= taken[1] <= (1 - EQUAL) * 20 + 0.2


def test_too_little_time_for_several_sizes_goes_to_the_others_and_is_told() -> None:
    made = Made(lambda batch: 0.05 + 0.001 * batch)
    found, _ = swept_apart(made, 5.0)
    assert sum(point.spent_s for point in found.points) >= 5.0
    assert not found.mixed
    assert found.unasked == "mixed sizes"
    assert not swept_apart(made)[0].unasked


def test_how_several_sizes_are_batched_is_asked_after_what_is_cold() -> None:
    made = Made(lambda batch: 0.01 * batch)
    asked: list[int] = []

    def mixed() -> Mixed:
        asked.append(len(made.asked))
        return Mixed(made.predict, SEVERAL, "a loop")

    found, _ = sweep(made.predict, PIXELS, "a loop", Bounds(60.0, audited=False), Watch(clock=lambda: made.now), mixed)
    assert asked == [sum(1 + point.calls * len(point.seconds) for point in found.points)]


def test_nothing_of_several_sizes_is_tried_when_memory_is_out() -> None:
    made = Made(lambda _: 0.01)
    bounds = Bounds(60.0, room=lambda batch: "it would need 7 GiB of 6" if batch == 2 else "")
    found, _ = sweep(made.predict, PIXELS, "a loop", bounds, Watch(clock=lambda: made.now), lambda: pytest.fail("was asked"))
    assert found.points[-1].stopped
    assert not found.mixed


def test_what_the_device_held_and_spent_is_of_each_point() -> None:
    """A device that takes 50 W, and a mebibyte an image of the largest batch that it was ever asked for."""
    made = Made(lambda batch: 0.01 * batch)

    def meter() -> Used:
        return Used(max(map(len, made.asked), default=0) << 20, 1000 + 50 * made.now)

    found, _ = sweep(made.predict, PIXELS, "a loop", Bounds(60.0), Watch(clock=lambda: made.now, meter=meter))
    assert [point.used.memory_bytes for point in found.points if point.used] == [batch << 20 for batch in (1, 2, 4)]
    for point in found.points:
        assert point.used is not None
        assert point.used.energy_j == pytest.approx(50 * point.spent_s)
    untold, _ = made.swept()
    assert all(point.used is None for point in untold.points)


@given(st.integers(1, 256), st.text(st.characters(codec="ascii", categories=["L", "N", "P"])), st.integers(0, 99))
def test_names_of_answers_read_back(batch: int, picture: str, other: int) -> None:
    assert read_name(answer_name(batch, picture, other)) == (batch, picture, other)


@given(st.integers(1, 256))
def test_batches_of_several_sizes_read_back(batch: int) -> None:
    asked, _, _ = read_name(answer_name(mixed_words(batch), "a"))
    assert mixed_batch(asked) == batch
    assert mixed_batch(batch) is None
    assert mixed_batch("4 clients") is None


def test_what_is_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("a tensor is out of bounds"))
    assert not is_out_of_memory(threading.BrokenBarrierError())
    assert is_out_of_memory(RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 12"))
