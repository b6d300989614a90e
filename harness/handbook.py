"""docs/checks.md: every check, every level, and the words that the verdicts use. `harness list --checks` prints it."""

from __future__ import annotations

from harness import levels
from harness.checks import CHECKS, Check
from harness.types import Status

_HEAD = """\
# Checks and levels

Printed by `harness list --checks`; a test compares.
The page of every run has the same words under "Method".
`harness run --check ID` judges some of them alone.
"""

_WORDS = {
    "backend": "a way to run a detector, such as `openvino_ir`.",
    "variant": "one setting of a backend, such as `f32`.",
    "cell": "a model on a backend in a variant on a device, written `tv_fcos_tiny/openvino_ir[f32]@cpu`.",
    "reference": "`torch_eager` in fp32 on the same device, one picture at a time.",
    "F": "the noise floor: how far the reference's own repeats lie from it in the same run.",
    "deck": "the pictures that every cell is asked; one of them, the sample, is the one that a graph is traced with.",
    "matched": "paired with a detection of the reference, one to one, by overlap and without regard to class.",
    "certified": "explained by a tie among the reference's own candidates.",
    "side": "of a box: its shorter one.",
    "px": "pixels of the picture as it was given, not as the network sees it.",
}

_VERDICTS = {
    Status.PASSED: "something was compared, and all of it is within the levels",
    Status.FAILED: "something is not",
    Status.ERRORED: "nothing can be said, because something broke: an exception, a process that died, another precision than "
    "the one asked for, a comparison of nothing",
    Status.WAIVED: "failed or errored as is [known](waivers.md), and expected to",
    Status.DECLINED: "the backend cannot be asked this, in words",
    Status.INCONCLUSIVE: "too little was measured",
    Status.MISSING: "planned, and not there: the run was cut off",
}

_END = "A run passes when nothing failed, errored or is missing."


def checks_page() -> str:
    """The text of docs/checks.md, Markdown."""
    lines = [_HEAD, "## Words", "", *(f"- **{word}**: {meaning}" for word, meaning in _WORDS.items())]
    lines += ["", "## Verdicts", "", "| verdict | what it says |", "|---|---|"]
    lines += [f"| {status} | {meaning} |" for status, meaning in _VERDICTS.items()]
    lines += ["", _END, "", "## Levels", "", "| quantity | level |", "|---|---|"]
    lines += [f"| {quantity} | {level} |" for quantity, level in levels.TABLE]
    suite = ""
    for check in CHECKS.values():
        if check.suite != suite:
            suite = check.suite
            lines += ["", f"## {suite}"]
        lines += ["", f"### {check.id}", "", *_words(check)]
    return "\n".join(lines) + "\n"


def _words(check: Check) -> list[str]:
    """A check's paragraph in its parts, one a line: what it asks, what usually breaks it, what to do."""
    text = check.asks
    for part in ("What usually", "What to do:"):
        text = text.replace(f" {part}", f"\n{part}")
    asked = f" Asked of models that give {check.output.replace('_', ' ')}." if check.output else ""
    return [f"*{check.title}.*{asked}", "", *text.splitlines()]
