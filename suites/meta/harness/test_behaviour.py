"""The cases: what is asked of a session, and that nothing a session does between two calls goes unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from harness.behaviour import BATCH, BLANK, SWAPPED, cases, run, told
from harness.checks.differences import unequal
from harness.detections import Detections, Pixels
from harness.errors import HarnessError, Unavailable
from harness.fixtures.decks import deck
from harness.suites.meta.harness.answers import detections

PICTURES: dict[str, Pixels] = {
    BLANK: np.zeros((20, 30, 3), np.uint8),
    "wide": np.full((20, 40, 3), (1, 2, 3), np.uint8),
    **{f"even_{index}": np.full((20, 24, 3), (9, 10 + index, 30), np.uint8) for index in range(5)},
    "tall": np.full((40, 20, 3), (4, 5, 6), np.uint8),
}


def seen(image: Pixels) -> dict[str, Any]:
    """What an invented graph says of a picture: one box of its size, its colour in the score."""
    height, width = image.shape[:2]
    count = int(image.max() > 0)
    return {"boxes": np.array([[0, 0, width, height]] * count, np.float32).reshape(-1, 4), "score": image[0, 0] / 255.0}


class Invented:
    """A detector without a runtime; ``answer`` is how it comes by the raw outputs of a call."""

    def __init__(self, answer: Callable[[Sequence[Pixels]], list[Any]], mixed: bool = False) -> None:
        self.raw, self.mixed, self.asked = answer, mixed, list[int]()

    def finish(self, given: Sequence[Any], images: Sequence[Pixels]) -> list[Detections]:
        return [detections(one["boxes"], [float(one["score"] @ (1, 2, 3)) / 6] * len(one["boxes"])) for one in given]

    def predict(self, images: Sequence[Pixels]) -> list[Detections]:
        self.asked.append(len(images))
        return self.finish(self.raw(images), images)

    def predict_mixed(self, images: Sequence[Pixels]) -> list[Detections]:
        if not self.mixed:
            raise Unavailable("one size a call")
        return self.predict(images)


def asked(detector: Invented) -> tuple[dict[str, Detections], dict[str, str], list[str]]:
    stages: list[str] = []
    answers, declined = run(detector, PICTURES, "even_0", stages.append)  # type: ignore[arg-type]
    return answers, declined, stages


def honest(images: Sequence[Pixels]) -> list[Any]:
    return [seen(image) for image in images]


@pytest.mark.parametrize("name", ["scenes", "quick"])
def test_every_deck_has_the_pictures_for_every_case(name: str) -> None:
    known = deck(name)
    pictures = {image.id: np.zeros((image.height_px, image.width_px, 3), np.uint8) for image in known.images}
    found = {case.name: case for case in cases({**pictures, SWAPPED: pictures[known.sample]}, known.sample)}
    assert set(found) == {"twice", "blank", "batch", "permuted", "swapped", "one held", "batch held", "mixed"}
    assert len(found["batch"].calls[-1]) == BATCH
    (mixed,) = found["mixed"].calls
    assert len({pictures[picture].shape for picture in mixed}) == len(mixed) > 2
    assert BLANK not in mixed


@pytest.mark.parametrize("name", ["scenes", "quick"])
def test_every_deck_has_pictures_of_every_kind_of_size(name: str) -> None:
    sizes = {image.id: (image.height_px, image.width_px) for image in deck(name).images if image.id != BLANK}
    side = min(sizes[deck(name).sample])
    found = {
        kind
        for height, width in sizes.values()
        for kind, is_there in {
            "portrait": height > width,
            "landscape": height < width,
            "square": height == width,
            "odd": height % 32 and width % 32,
            "shorter": min(height, width) < side,
            "longer": min(height, width) > side,
        }.items()
        if is_there
    }
    assert found == {"portrait", "landscape", "square", "odd", "shorter", "longer"}


def test_a_case_without_its_pictures_is_left_out() -> None:
    answers, _ = run(Invented(honest), {"even_0": PICTURES["even_0"]}, "even_0", str)  # type: ignore[arg-type]
    assert told(answers, "blank") == ()
    assert [list(call) for call in told(answers, "twice")] == [["even_0"]] * 4


def test_answers_are_found_by_case_call_and_picture() -> None:
    answers, declined, stages = asked(Invented(honest, mixed=True))
    assert [list(call) for call in told(answers, "blank")] == [["even_0"], [BLANK], ["even_0"]]
    first, turned = (list(call) for call in told(answers, "permuted"))
    assert turned == [*first[1:], first[0]]
    (mixed,) = told(answers, "mixed")
    assert list(mixed) == ["even_0", "wide", "tall"]
    assert declined == {}
    assert stages[0] == "behaviour, twice"


def test_exchanged_channels_reach_the_session() -> None:
    (straight,), (exchanged,) = (call.values() for call in told(asked(Invented(honest))[0], "swapped"))
    assert unequal(straight, exchanged)


def test_what_cannot_be_mixed_is_declined_and_the_rest_is_asked() -> None:
    answers, declined, _ = asked(Invented(honest))
    assert declined == {"mixed": "one size a call"}
    assert told(answers, "mixed") == ()
    assert told(answers, "batch held")


def test_outputs_that_share_memory_with_the_next_call_are_seen() -> None:
    buffer = np.zeros(3)

    def reusing(images: Sequence[Pixels]) -> list[Any]:
        answers = honest(images)
        for one in answers:
            buffer[:] = one["score"]
            one["score"] = buffer
        return answers

    at_once, kept = told(asked(Invented(reusing))[0], "one held")
    assert unequal(at_once["even_0"], kept["even_0"])
    at_once, kept = told(asked(Invented(honest))[0], "one held")
    assert not unequal(at_once["even_0"], kept["even_0"])


def test_too_few_answers_are_an_error() -> None:
    with pytest.raises(HarnessError, match="answered 3 times for 4 images"):
        asked(Invented(lambda images: honest(images)[:3]))
