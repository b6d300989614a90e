"""How noisy a machine is to timings: a backend against itself, and against itself made 5 % slower, by the rule of regressions.

Rounds of processes are measured once; trials draw their pairs from these. A regression is what two measurements in fresh processes
both tell (`harness.intervals.agreed_p`), so a trial draws two disjoint sets of rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, stdev
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness import __version__, environment
from harness.checks.fit import fit_figures_s
from harness.errors import HarnessError
from harness.intervals import DISCOVERY_RATE, regressed, smallest_detectable
from harness.live import LiveRun, Plan
from harness.options import Options
from harness.types import Cell

if TYPE_CHECKING:
    from harness.telling import Reporter

Figures = NDArray[np.float64]

TRIALS = 4000
PAIRS = (5, 10)
"""Pairs of processes a measurement, of which a rule needs two."""

MODEL = "tv_ssdlite_tiny"
"""Whose times are taken where no other is named: the smallest."""


@dataclass(frozen=True, slots=True)
class Power:
    """What a number of pairs can tell, in shares of trials: ``false_alarms`` of the same against itself, ``caught`` of 5 % slower.

    ``smallest`` is the slow-down that would be caught with a power of 95 %, as a share.
    """

    false_alarms: float
    caught: float
    smallest: float


@dataclass(frozen=True, slots=True)
class Noise:
    """How noisy a machine is. ``spread`` is the relative standard deviation of process medians of one side.

    ``slower`` is the ratio that the pace that is 5 % slower was measured at; ``pairs`` are by number of pairs, as text. Of
    numbers of pairs that the ``rounds`` do not hold twice nothing is said.
    """

    machine: str
    model: str
    rounds: int
    spread: float
    slower: float
    pairs: Mapping[str, Power]
    version: str = ""
    day: str = ""

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, default=dict) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Noise:
        """What `write` wrote. Raises OSError where there is none, ValueError where it is damaged."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        try:
            return cls(**{**raw, "pairs": {count: Power(**power) for count, power in raw["pairs"].items()}})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no noise of a machine: {error}") from error

    def lines(self) -> list[str]:
        """For a person."""
        spread = f"medians of one side spread by {self.spread:.2%}, 5 % slower was measured as {self.slower - 1:.2%}"
        told = [f"{self.rounds} rounds of {self.model} in fresh processes; {spread}"]
        for count, power in self.pairs.items():
            rates = f"{power.false_alarms:.2%} false alarms of the same against itself, {power.caught:.1%} of 5 % slower caught"
            told.append(f"{count} pairs, twice: {rates}, a slow-down of {power.smallest:.1%} is caught 95 times of 100")
        missing = [str(count) for count in PAIRS if str(count) not in self.pairs]
        if missing:
            told.append(
                f"not established of {' and '.join(missing)} pairs, which need twice as many rounds: --budget with more seconds"
            )
        return told


def noise_file(cache: Path) -> Path:
    """Where this machine's noise is kept: by its fingerprint."""
    return cache / f"noise-{environment.machine().fingerprint}.json"


def measure(options: Options, reporter: Reporter) -> Noise:
    """Run the paces on a model; ``options`` say which, where and for how long. Raises `HarnessError` where too few rounds fit."""
    from dataclasses import replace

    from harness.fixtures import paces

    model = (options.model or (MODEL,))[:1]
    asked = replace(options, model=model, device=("cpu",), backend=(paces.ADAPTER.name,), only=("throughput",))
    asked = replace(asked, adapter=(f"{paces.__file__}:ADAPTER",), check=("throughput.measured",))
    plan = Plan(asked)
    run = LiveRun(plan, reporter.command, reporter.job)
    run.start(plan.keys, reporter.say)
    reporter.begin(run)
    cut_off: str | None = "interrupted"
    try:
        for key in plan.keys:
            run.verdict(*key)
        sides = {
            variant.id: fit_figures_s(run.sweeps(Cell(model[0], paces.ADAPTER.name, variant.id, "cpu")), 1)
            for variant in paces.ADAPTER.variants
        }
        cut_off = None
    finally:
        run.close(cut_off)
        reporter.end()
    return noise_of(model[0], sides["as_it_is"], sides["again"], sides["slower"])


def noise_of(model: str, base: Mapping[int, float], again: Mapping[int, float], slower: Mapping[int, float]) -> Noise:
    """The noise in figures of three sides by round, in seconds. Raises `HarnessError` where they share too few rounds."""
    rounds = sorted(base.keys() & again.keys() & slower.keys())
    if len(rounds) < 2 * min(PAIRS):
        raise HarnessError(
            f"{len(rounds)} rounds were steady and undisturbed on all sides, {2 * min(PAIRS)} are needed",
            "Run it on a quiet machine, or with more seconds: --budget.",
        )
    one, same, late = ([side[number] for number in rounds] for side in (base, again, slower))
    logs = np.log([one, same])
    return Noise(
        machine=environment.machine().fingerprint,
        model=model,
        rounds=len(rounds),
        spread=float(np.sqrt((stdev(logs[0]) ** 2 + stdev(logs[1]) ** 2) / 2)),
        slower=median(b / a for a, b in zip(one, late, strict=True)),
        pairs={str(count): _power(one, same, late, count) for count in PAIRS if len(rounds) >= 2 * count},
        version=__version__,
        day=datetime.now(UTC).date().isoformat(),
    )


def _power(one: Sequence[float], same: Sequence[float], late: Sequence[float], pairs: int) -> Power:
    """By drawing: which of the two equal sides is called the candidate is drawn too, as nothing tells them apart."""
    draw = np.random.default_rng(20240229)
    sides = np.array([one, same, late])
    false_alarms = caught = 0
    reach: list[float] = []
    for _ in range(TRIALS):
        drawn = draw.permutation(len(one))[: 2 * pairs]
        swapped = draw.integers(0, 2, 2 * pairs)
        equal = [np.where(swapped == side, sides[0, drawn], sides[1, drawn]) for side in (0, 1)]
        false_alarms += _is_alarm(equal[0], equal[1], pairs)
        caught += _is_alarm(sides[0, drawn], sides[2, drawn], pairs)
        # Both measurements must tell it: each with the root of the power, at the root of the rate.
        first, second = (side[:pairs].tolist() for side in equal)
        reach.append(smallest_detectable(first, second, power=0.95**0.5, rate=DISCOVERY_RATE**0.5))
    return Power(false_alarms / TRIALS, caught / TRIALS, float(np.median(reach)))


def _is_alarm(base: Figures, candidate: Figures, pairs: int) -> bool:
    first, second = ((base[half].tolist(), candidate[half].tolist()) for half in (slice(None, pairs), slice(pairs, None)))
    return regressed(first, second)
