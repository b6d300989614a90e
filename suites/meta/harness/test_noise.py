"""The noise of a machine, of figures whose noise is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness import noise
from harness.errors import HarnessError
from harness.noise import Noise, noise_file, noise_of

pytestmark = pytest.mark.covers("M19")
Side = dict[int, float]


def sides(spread: float, rounds: int = 20, slower: float = 0.05, seed: int = 0, drift: float = 0.02) -> tuple[Side, Side, Side]:
    """Three sides on a machine that drifts from round to round."""
    draw = np.random.default_rng(seed)
    machine = np.exp(np.cumsum(draw.normal(0, drift, rounds)))

    def side(factor: float) -> Side:
        return dict(enumerate((0.02 * factor * machine * np.exp(draw.normal(0, spread, rounds))).tolist()))

    return side(1.0), side(1.0), side(1 + slower)


@pytest.fixture(autouse=True)
def _fewer_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "TRIALS", 300)


def test_a_quiet_machine_tells_five_percent_and_raises_no_alarm() -> None:
    found = noise_of("tiny", *sides(0.005))
    assert found.rounds == 20
    assert found.slower == pytest.approx(1.05, abs=0.01)
    for power in found.pairs.values():
        assert power.false_alarms <= 0.01
        assert power.caught >= 0.95
        assert power.smallest < 0.05
    assert list(found.pairs) == ["5", "10"]


def test_a_noisy_machine_says_what_it_cannot_tell() -> None:
    found = noise_of("tiny", *sides(0.05))
    assert found.pairs["5"].caught < 0.5
    assert found.pairs["5"].smallest > 0.08
    assert found.pairs["5"].false_alarms <= 0.01
    assert found.pairs["10"].smallest < found.pairs["5"].smallest


def test_what_is_no_slower_is_not_caught() -> None:
    found = noise_of("tiny", *sides(0.005, slower=0.0))
    assert found.pairs["5"].caught <= 0.01
    assert found.slower == pytest.approx(1.0, abs=0.01)


def test_rounds_are_those_that_all_sides_share_and_few_of_them_establish_less() -> None:
    base, again, slower = sides(0.005)
    found = noise_of("tiny", base, {n: again[n] for n in range(12)}, {n: slower[n] for n in range(1, 20)})
    assert (found.rounds, list(found.pairs)) == (11, ["5"])
    assert "not established of 10 pairs, which need twice as many rounds: --budget with more seconds" in found.lines()
    with pytest.raises(
        HarnessError, match=r"9 rounds were steady and undisturbed on all sides, 10 are needed\n  Run it on a quiet"
    ):
        noise_of("tiny", base, again, {n: slower[n] for n in range(9)})


def test_it_is_kept_by_machine_and_read_back(tmp_path: Path) -> None:
    found = noise_of("tiny", *sides(0.005))
    file = noise_file(tmp_path / "not" / "there")
    found.write(file)
    assert Noise.read(file) == found
    assert found.machine in file.name
    file.write_text(json.dumps({"pairs": {"5": {"power": 1}}}), encoding="utf-8")
    with pytest.raises(ValueError, match="is no noise of a machine"):
        Noise.read(file)
