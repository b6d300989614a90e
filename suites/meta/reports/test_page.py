"""The page says what the run says: all of it, and nothing that a name in the run could make it say."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness import heading
from harness.document import CellKey, Notice, Planned
from harness.errors import RunFolderError
from harness.fixtures.models import WEIGHTS_FOLDER
from harness.journal import Run, read_run
from harness.live import Plan
from harness.options import Options
from harness.reports.matrix import SIGNS
from harness.reports.page import PageTooLarge, render_page, write_page
from harness.selftest import read_outcome
from harness.suites.meta.reports import invented
from harness.types import Cell, Measure, Record, Status

ROOT = Path(invented.__file__).parents[3]


class Reader(HTMLParser):
    """What a browser without a script gets: elements with their attributes, and the text of each by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._muted = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._muted += tag in ("style", "script")
        self.words += [" "] if tag in ("td", "th", "tr", "li", "p", "h1", "h2", "h3", "dt", "dd", "div") else []

    def handle_endtag(self, tag: str) -> None:
        self._muted -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._muted:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is read, with single spaces."""
        return " ".join("".join(self.words).split())

    def all(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def run() -> Run:
    return invented.run()


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return render_page(run)


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_every_planned_verdict_has_a_square_with_glyph_letter_and_detail(page: str, read: Reader, run: Run) -> None:
    table = page[page.index('aria-label="Matrix of checks by cells"') :]
    table = table[: table.index("</table>")]
    pattern = r'<a class="(\w+)" href="#([\w-]+)"[^>]*><span aria-hidden="true">(.)</span><small>(\w)</small>'
    squares = re.findall(pattern, table)
    assert Counter(status for status, *_ in squares) == {str(s): n for s, n in run.counts.items() if n}
    assert all((glyph, letter) == SIGNS[Status(status)] for status, _, glyph, letter in squares)
    assert {anchor for _, anchor, *_ in squares} <= set(read.all("id"))
    assert len(squares) == len(run.header.planned)


def test_a_verdict_that_was_never_planned_is_no_pass() -> None:
    run = invented.run(invented.MODELS[:1])
    fewer = tuple(r for r in run.records if not (r.check == "parity.boxes" and r.cell.backend == "openvino_ir"))
    planned = tuple(p for p in run.header.planned if not (p.check == "parity.boxes" and p.cell.backend == "openvino_ir"))
    page = render_page(replace(run, header=run.header.model_copy(update={"planned": planned}), records=fewer))
    assert page.count('title="not planned"') == 1


def test_the_sections_stand_in_their_order(page: str) -> None:
    order = ["verdict", "scoreboard", "matrix", "findings", "waived", "inconclusive", "declined", "pictures", "speed", "verdicts"]
    places = [page.index(f'id="{name}"') for name in (*order, "method")]
    assert places == sorted(places)


def test_the_verdict_comes_in_words_one_sentence_a_cause(page: str, read: Reader) -> None:
    assert "Of 408 verdicts, 2 failed and 5 errored, on 3 of 24 cells." in read.text
    sentences = page[page.index('<ol class="sentences">') : page.index("</ol>")]
    assert sentences.count("<li>") == 3
    assert "CUDA not checked: no GPU on this machine." in read.text
    assert "Waived as known: 2 verdicts (bentoml-predictor-config)." in read.text
    assert "Outside the tested versions: numpy 2.3.4 (tested 2.3.3)." in read.text


def test_an_absent_library_is_told_with_its_cure() -> None:
    run = invented.run(invented.MODELS[2:])
    absent = Notice(subject="Detectron2", state="not checked", reason="it is not installed", cure="Install: pip install that.")
    page = render_page(replace(run, header=run.header.model_copy(update={"notices": (absent,)})))
    assert "Detectron2 not checked: it is not installed. Install: pip install that." in Reader(page).text


def test_a_model_that_nobody_trained_is_told_in_red() -> None:
    run = invented.run(invented.MODELS[2:])
    subject = invented.MODELS[2]
    notice = Notice(subject=subject, state="not trained", reason="its weights are random ones")
    page = render_page(replace(run, header=run.header.model_copy(update={"notices": (notice,)})))
    assert f'<li class="failed">{subject} not trained: its weights are random ones.' in page
    assert page.count('<li class="failed">') == 1


@pytest.mark.parametrize("status", [Status.FAILED, Status.ERRORED, Status.WAIVED])
def test_each_has_its_reason_figures_and_command(read: Reader, run: Run, status: Status) -> None:
    found = [record for record in run.records if record.status is status]
    assert found
    for record in found:
        assert record.reason.replace("`", "") in read.text
        assert record.reproduce in read.text
        for measure in record.measures:
            assert measure.name in read.text


def test_a_waiver_is_told_with_reason_finding_and_expiry(read: Reader) -> None:
    told = "Waived: bentoml-predictor-config, upstream, expires 2027-05-01"
    assert told in read.text
    assert "First stage that differs: pooler: 12 of 900 values of pooled differ." in read.text
    assert "takes the config from a predictor only when it is saved the first time. First stage that differs: save." in read.text
    assert "docs/findings.md#bentoml-predictor-config" in read.text


def test_the_scoreboard_shows_its_denominator_and_its_reference(read: Reader) -> None:
    for row in ("torch_eager[plain]@cpu 81 of 82 0 3", "openvino_ir[f32]@cpu 66 of 67 0 18", "[predictor]@cpu 31 of 33 2 1"):
        assert row in read.text
    assert "1.00×" in read.text


def test_batching_kinds_have_figures_of_their_own(page: str) -> None:
    curves = page[page.index("<h3>Batch curves</h3>") :]
    curves = curves[: curves.index("</section>")]
    told = re.findall(r'<figure role="group" aria-label="Images a second by images a call, ([\w ]+):([^"]+)"', curves)
    assert {kind for kind, _ in told} == {"a loop", "one tensor", "requests in flight"}
    assert all(("torch_eager" in names) == (kind == "one tensor") for kind, names in told)
    assert "Survey, not gated." in page


def test_both_answers_are_drawn_and_tabled(page: str, read: Reader) -> None:
    drawing = page[page.index('class="exhibit"') :]
    drawing = drawing[: drawing.index("</svg>")]
    assert drawing.count('class="reference"') == 4
    assert drawing.count('class="candidate"') == 3
    assert re.findall(r'class="tag">(\w+)<', drawing) == ["B1", "C2", "M3", "E4"]
    assert "B1 box moved square 0.984 → 0.983 3.20 0.910" in read.text
    assert "C2 class differs square → triangle" in read.text


def test_environment_and_method_are_there(read: Reader, run: Run) -> None:
    for words in (run.header.deck.sha256, run.header.machine.cpu_model, "numpy 2.3.4", "seed 7", run.header.reproduce):
        assert words in read.text
    for check in run.header.checks:
        assert check.asks in read.text


def test_the_same_run_gives_the_same_bytes_in_another_process(page: str) -> None:
    script = "from harness.reports.page import render_page; from harness.suites.meta.reports import invented; import sys;"
    script += "sys.stdout.buffer.write(render_page(invented.run()).encode())"
    environment = {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert child.stdout.decode() == page


def test_every_link_leads_somewhere_and_every_id_is_there_once(read: Reader) -> None:
    ids = read.all("id")
    assert len(ids) == len(set(ids))
    inside = {value[1:] for value in read.all("href") if value.startswith("#")}
    assert inside <= set(ids)
    labelled = set(read.all("aria-labelledby"))
    assert labelled <= set(ids)


def _offences(read: Reader) -> list[str]:
    """Whatever in a page could load, run or restyle something that is not its own."""
    found = [name for _, attributes in read.elements for name in attributes if name.startswith("on") or name == "style"]
    found += [tag for tag, _ in read.elements if tag in ("iframe", "object", "embed", "form", "base", "link", "img", "audio")]
    for name in ("href", "src", "action", "xlink:href", "srcset", "poster", "data"):
        found += [value[:60] for value in read.all(name) if not value.startswith(("#", "data:image/", "data:application/x-nd"))]
    found += ["script"] * (sum(tag == "script" for tag, _ in read.elements) - 1)
    return found


def test_nothing_is_fetched_and_the_policy_names_the_page_s_own_parts(page: str, read: Reader) -> None:
    assert _offences(read) == []
    policy = next(a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE--`</style><style>*{display:none}",
    "</script><!--",
    "{{ 7 * 7 }}{% raw %}",
    "\u202e\u0000\x1b[31m|ünï¢ødé 検出器 🦆",
    "javascript:alert(1)//$x^2$",
)


def hostile_run(words: str) -> Run:
    """An invented run in which everything that can be named is named this."""
    run = invented.run(("tv_maskrcnn_tiny",))
    cell = Cell(words, words, words, words)
    key = CellKey.of(cell)
    line = run.cells[2].model_copy(update={"cell": key, "notes": (words,), "isolation": {words: words}, "declined": words})
    curve = tuple(point.model_copy(update={"batching": words}) for point in line.curve)
    exhibit = run.exhibits[0].model_copy(update={"cell": key, "image": words, "caption": words, "picture": words})
    model = run.header.models[0].model_copy(update={"id": words, "classes": (words,), "family": words, "task": words})
    waiver = run.header.waivers[0].model_copy(update={"id": words, "reason": words, "finding": words, "kind": words})
    header = run.header.model_copy(
        update={
            "run": words,
            "created": words,
            "command": words,
            "reproduce": words,
            "commit": words,
            "models": (model,),
            "waivers": (waiver,),
            "planned": (Planned(check=words, cell=key),),
            "checks": tuple(c.model_copy(update={"title": words, "asks": words}) for c in run.header.checks),
            "method": {words: words},
            "options": {words: words},
            "versions": {words: words},
            "notices": (Notice(subject=words, state="broken", reason=words, cure=words),),
        }
    )
    records = tuple(
        Record(f"{words}.{s}", cell, s, words, 1, (Measure(words, 1.0, 0.5, words),), words, words, words) for s in Status
    )
    return Run(header, (line.model_copy(update={"curve": curve}),), records, (exhibit,), run.footer)


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_names_do_nothing(words: str) -> None:
    page = render_page(hostile_run(words))
    read = Reader(page)
    assert _offences(read) == []
    tags = Counter(tag for tag, _ in read.elements)
    harmless = Counter(tag for tag, _ in Reader(render_page(hostile_run("harmless"))).elements)
    # A backtick pair becomes code and an identifier breaks where it may: nothing else may differ.
    del tags["wbr"], harmless["wbr"], tags["code"], harmless["code"]
    assert tags == harmless
    shown = re.sub(r"\s+", "", words.replace("`", "").replace("\x00", ""))
    assert shown in re.sub(r"\s+", "", read.text).replace("\x00", "").replace("\ufffd", "").replace("`", "")


def test_figures_that_are_no_numbers_are_shown() -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    broken = Record("a.b", run.records[0].cell, Status.FAILED, "NaN.", 1, (Measure("worst", float("nan"), 1e-4),))
    cell = run.cells[0].model_copy(update={"predict_s": (float("nan"), float("inf"), 0.0, -1.0), "open_s": float("nan")})
    page = render_page(replace(run, records=(*run.records, broken), cells=(cell,)))
    assert "worst NaN 0.0001" in Reader(page).text


def test_a_run_cut_off_says_so_and_counts_what_is_missing(run: Run) -> None:
    page = Reader(render_page(replace(run, records=run.records[:100], footer=None)))
    assert "Does not hold Cut off: it was killed before it could say why." in page.text
    assert "308 are missing" in page.text


def test_a_run_of_nothing_does_not_hold() -> None:
    empty = replace(invented.run(), cells=(), records=(), exhibits=(), header=invented.header((), planned=[]))
    assert "Does not hold Nothing was compared: no check passed or failed." in Reader(render_page(empty)).text


def test_a_run_in_which_all_holds_says_so(run: Run) -> None:
    fine = tuple(replace(r, status=Status.PASSED) if r.status not in (Status.DECLINED, Status.WAIVED) else r for r in run.records)
    read = Reader(render_page(replace(run, records=fine)))
    told = "Holds Every backend that was checked answers as it must, save 1 known divergence (2 verdicts): 377 checks passed."
    assert told in read.text


def test_the_download_is_the_run_without_its_pictures(page: str, run: Run, tmp_path: Path) -> None:
    (data,) = re.findall(r'href="data:application/x-ndjson;base64,([^"]+)"', page)
    (tmp_path / "run.jsonl").write_bytes(base64.b64decode(data))
    found = read_run(tmp_path)
    assert (found.header, found.cells, found.records) == (run.header, run.cells, run.records)
    assert found.exhibits == ()


def test_the_default_run_s_page_is_small(page: str) -> None:
    assert len(page.encode()) < 1_500_000


def test_a_page_too_large_is_refused_and_a_large_one_warned_of(tmp_path: Path) -> None:
    run = invented.run(("tv_maskrcnn_tiny",))
    picture = base64.b64encode(bytes(10_000_000)).decode()
    large = replace(run, exhibits=tuple(e.model_copy(update={"picture": picture}) for e in run.exhibits))
    assert write_page(run, tmp_path / "page.html") is None
    warning = write_page(large, tmp_path / "page.html")
    assert warning is not None
    assert "25 MB" in warning
    with pytest.raises(PageTooLarge, match="the most a browser should open"):
        render_page(replace(large, exhibits=large.exhibits * 2))


def test_a_page_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot write"):
        write_page(invented.run(("tv_maskrcnn_tiny",)), tmp_path / "absent" / "page.html")


def test_figures_far_beyond_their_level_say_how_far(read: Reader) -> None:
    assert "worst box 0.317 px 0.019 px 16.7 ×" in read.text


TIMED = """
import sys, time
from pathlib import Path
from harness.journal import read_run
from harness.reports.page import render_page
render_page(read_run(Path(sys.argv[1])))  # matplotlib and Jinja are imported once a process
for _ in range(3):
    started = time.process_time()
    render_page(read_run(Path(sys.argv[2])))
    print(time.process_time() - started)
"""
"""In a process of its own, as a reader renders: what thousands of tests have left in memory makes every allocation dearer."""


@pytest.mark.alone
def test_five_thousand_checks_render_in_under_two_seconds(tmp_path: Path) -> None:
    models = tuple(f"tv_model_{n}" for n in range(74))
    file = invented.write(tmp_path / "large", invented.run(models))
    small = invented.write(tmp_path / "small", invented.run(invented.MODELS[:1]))
    command = [sys.executable, "-c", TIMED, str(small), str(file)]
    timed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert min(float(seconds) for seconds in timed.split()) < 2.0
    run = read_run(file)
    page = render_page(run)
    assert len(run.verdicts) > 5000
    assert len(page.encode()) < 10_000_000
    assert "62 more models stand in the scoreboard" in Reader(page).text


def test_the_page_of_a_real_header_tells_the_kill_rate_and_how_sharp_a_detector_is(run: Run) -> None:
    """Of what is recorded, not of what was invented here."""
    plan = Plan(Options.of({"quick": True, "model": ["tv_maskrcnn_tiny"], "device": ["cpu"]}))
    header = heading.header(plan, plan.keys, (), "run", "harness run")
    page = Reader(render_page(replace(run, header=header, records=(), cells=())))
    outcome = read_outcome()
    assert outcome.kill_rate == 1
    assert len(outcome.faults) > 24
    assert outcome.text().splitlines()[0] in page.text
    note = json.loads((WEIGHTS_FOLDER / "tv_maskrcnn_tiny.json").read_text(encoding="utf-8"))
    assert f"box AP50 {note['box_ap50']:.3g}" in page.text
    assert f"mask AP50 {note['mask_ap50']:.3g}" in page.text
