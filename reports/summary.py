"""The verdict in words, in one place for page, terminal and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from harness.journal import Run
from harness.reports.numerals import counted, duration, figure, listed, ratio, size
from harness.reports.scoreboard import scoreboard
from harness.reports.wording import sentence, stopped
from harness.types import Cell, Record, Status

TROUBLE = (Status.FAILED, Status.ERRORED, Status.MISSING)
"""What makes a run not hold, in the order it is told."""

MOST_CHARACTERS = 500
"""Of a reason in a terminal and at the head of a page: some libraries raise pages of text, and the finding below has the whole."""

MOST_FINDINGS = 50
"""Findings told in full by a summary; GitHub cuts a step summary off at 1 MiB."""

MOST_ASIDES = 2
"""Inconclusive timings told one by one; more are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Verdicts of one status with one reason on one cell (missing, waived, declined: on any cell): told as one sentence."""

    status: Status
    reason: str
    records: tuple[Record, ...]
    titles: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return sentence(self.reason)

    @property
    def beginning(self) -> str:
        """The sentence, or so much of it as a summary has room for."""
        whole = self.sentence
        return whole if len(whole) <= MOST_CHARACTERS else shorten(whole, MOST_CHARACTERS, placeholder=" ...")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells it is about, each once."""
        return tuple(dict.fromkeys(record.cell for record in self.records))

    @property
    def subject(self) -> str:
        """The cell, or how many."""
        return str(self.cells[0]) if len(self.cells) == 1 else f"{figure(len(self.cells))} cells"

    @property
    def what(self) -> str:
        """The checks it is about, by title; counted when they are many."""
        return listed(self.titles) if len(self.titles) <= 3 else f"{figure(len(self.titles))} checks"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``holds`` is true when nothing failed, errored or is missing, something passed and the run finished."""

    holds: bool
    headline: str
    findings: tuple[Finding, ...]
    asides: tuple[str, ...]


def verdict(run: Run) -> Verdict:
    """What the run says, in words."""
    found = findings(run, *TROUBLE)
    counts = run.counts
    holds = not found and run.cut_off is None and counts[Status.PASSED] > 0
    return Verdict(holds, _headline(run, found), found, tuple(_asides(run)))


def findings(run: Run, *statuses: Status) -> tuple[Finding, ...]:
    """The verdicts of these statuses, those with one cause together, in the order of the statuses and of the plan."""
    titles = {check.id: check.title for check in run.header.checks}
    groups: dict[tuple[Status, Cell | None, str], list[Record]] = {}
    for record in run.verdicts:
        if record.status in statuses:
            cell = None if record.status in (Status.MISSING, Status.WAIVED, Status.DECLINED) else record.cell
            groups.setdefault((record.status, cell, record.reason), []).append(record)
    ordered = sorted(groups.items(), key=lambda item: statuses.index(item[0][0]))
    return tuple(
        Finding(status, reason, tuple(records), tuple(dict.fromkeys(titles.get(r.check, r.check) for r in records)))
        for (status, _, reason), records in ordered
    )


def _headline(run: Run, found: tuple[Finding, ...]) -> str:
    counts = run.counts
    cut = f"Cut off: {run.cut_off}. " if run.cut_off else ""
    if found:
        told = listed(_told(status, counts[status]) for status in TROUBLE if counts[status])
        concerned = {cell for finding in found for cell in finding.cells}
        all_cells = {record.cell for record in run.verdicts}
        verdicts = counted(len(run.verdicts), "verdict")
        return f"{cut}Of {verdicts}, {told}, on {figure(len(concerned))} of {counted(len(all_cells), 'cell')}."
    if not counts[Status.PASSED] and not counts[Status.WAIVED]:
        return f"{cut}Nothing was compared: no check passed or failed."
    known = counted(len(_known(run)), "known divergence")
    waived = f", save {known} ({counted(counts[Status.WAIVED], 'verdict')})" if counts[Status.WAIVED] else ""
    open_ends = f" {counted(counts[Status.INCONCLUSIVE], 'verdict')} could not be settled." if counts[Status.INCONCLUSIVE] else ""
    passed = counted(counts[Status.PASSED], "check")
    return f"{cut}Every backend that was checked answers as it must{waived}: {passed} passed.{open_ends}"


def _told(status: Status, count: int) -> str:
    be = "" if status is not Status.MISSING else "is " if count == 1 else "are "
    return f"{figure(count)} {be}{status}"


def _asides(run: Run) -> Iterator[str]:
    """What a reader must know beside the failures."""
    for notice in run.header.notices:
        yield f"{notice.subject} {notice.state}: {stopped(notice.reason)} {notice.cure}".strip()
    if waived := run.counts[Status.WAIVED]:
        yield f"Waived as known: {counted(waived, 'verdict')} ({listed(_known(run))})."
    yield from _stale(run)
    unsettled = [record for record in run.verdicts if record.status is Status.INCONCLUSIVE]
    if len(unsettled) > MOST_ASIDES:
        checks = listed(dict.fromkeys(record.check for record in unsettled))
        yield f"Inconclusive: {checks} on {counted(len({record.cell for record in unsettled}), 'cell')}."
    else:
        yield from (f"Inconclusive: {r.check} on {r.cell}. {sentence(r.reason)}" for r in unsettled)
    if not run.header.tested_versions.inside:
        differing = listed(run.header.tested_versions.differing) or "which ones is not recorded"
        yield f"Outside the tested versions: {differing}."


def _known(run: Run) -> tuple[str, ...]:
    """The findings that waived verdicts are told in, once each: many waivers tell of one, and a reader knows it by its name."""
    named = {waiver.id: waiver.finding.rpartition("#")[2] for waiver in run.header.waivers}
    waivers = (record.waiver or "" for record in run.verdicts if record.status is Status.WAIVED)
    return tuple(dict.fromkeys(named.get(waiver) or waiver or "unnamed" for waiver in waivers))


def _stale(run: Run) -> Iterator[str]:
    """Each waiver of checks that pass, once: a fault mended upstream makes one stale on many cells in one go."""
    stale: dict[str, list[Record]] = {}
    for record in run.verdicts:
        if record.status is Status.PASSED and record.waiver:
            stale.setdefault(record.waiver, []).append(record)
    for name, (first, *others) in stale.items():
        more = f" (and {figure(len(others))} more)" if others else ""
        still = any(record.waiver == name and record.status is Status.WAIVED for record in run.verdicts)
        cure = "Take what passes out of it." if still else "Remove it."
        yield f"The waiver {name} is stale: {first.check} passes on {first.cell}{more}. {cure}"


def tally(run: Run) -> str:
    """All statuses and their numbers, in one line."""
    return ", ".join(f"{figure(count)} {status}" for status, count in run.counts.items())


def verdict_line(run: Run) -> str:
    """The verdict and all numbers in one line."""
    return f"{_one_line(verdict(run).headline)} ({tally(run)})"


def text_summary(run: Run) -> str:
    """The summary for a terminal: plain lines, no colour."""
    told = verdict(run)
    lines = [told.headline, ""]
    for finding in told.findings[:MOST_FINDINGS]:
        lines.append(f"  {finding.status.upper():8} {finding.subject}: {finding.what}")
        lines.append(f"           {finding.beginning}")
        command = finding.records[0].reproduce
        lines += [f"           $ {command}"] if command else []
    lines += _rest(told.findings)
    lines += [""] if told.findings else []
    lines += [f"  {aside}" for aside in told.asides]
    lines += [f"  {tally(run)}"]
    lines += [f"  took {duration(run.footer.seconds)}"] if run.footer else []
    return "\n".join(_one_line(line) for line in lines)


def json_summary(run: Run) -> dict[str, Any]:
    """The verdict for a program: what ``harness run --json`` prints. ``holds`` is the verdict; ``findings`` as on the page."""
    told = verdict(run)
    return {
        "run": run.header.run,
        "holds": told.holds,
        "headline": told.headline,
        "cut_off": run.cut_off,
        "counts": {str(status): count for status, count in run.counts.items()},
        "findings": [
            {
                "status": str(finding.status),
                "reason": finding.reason,
                "cells": [str(cell) for cell in finding.cells],
                "checks": sorted({record.check for record in finding.records}),
                "reproduce": finding.records[0].reproduce,
            }
            for finding in told.findings
        ],
        "asides": list(told.asides),
        "seconds": run.footer.seconds if run.footer else None,
    }


def markdown_summary(run: Run) -> str:
    """The summary for a CI job's page (GitHub's step summary)."""
    told = verdict(run)
    lines = [f"### {'Holds' if told.holds else 'Does not hold'}: {_escaped(told.headline)}", "", tally(run), ""]
    lines += [
        f"- **{finding.status}** {_escaped(finding.subject)}: {_escaped(finding.what)}. {_escaped(finding.sentence)}"
        for finding in told.findings[:MOST_FINDINGS]
    ]
    lines += _rest(told.findings)
    lines += [*(f"- {_escaped(aside)}" for aside in told.asides), ""]
    lines += ["| backend | passed | declined | latency | to reference | artifact | opens | memory |"]
    lines += ["|:--|--:|--:|--:|--:|--:|--:|--:|"]
    for score in scoreboard(run).backends:
        figures = (
            f"{score.passed} of {score.judged}",
            f"{score.declined}",
            duration(score.latency_s),
            ratio(score.to_reference),
            size(score.artifact_bytes),
            duration(score.open_s),
            size(score.peak_rss_bytes),
        )
        lines.append(f"| {_escaped(score.name)} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def _rest(found: tuple[Finding, ...]) -> list[str]:
    more = len(found) - MOST_FINDINGS
    return [f"  and {counted(more, 'more finding')}, on the page"] if more > 0 else []


def _one_line(words: str) -> str:
    """Without line breaks, and without the control characters with which a name could repaint or reverse the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+", " ", words)


def _escaped(words: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", _one_line(words)).replace("\\<", "&lt;").replace("\\&", "&amp;")
