"""Known divergences: strict, bounded in version and time, and read without mercy for typing errors."""

from __future__ import annotations

import dataclasses
import tomllib
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import registry
from harness.checks import CHECKS
from harness.errors import InvalidWaivers
from harness.plan import DEVICES
from harness.types import Cell, Record, Status
from harness.waivers import Waiver, apply, check_names, load_waivers

TODAY = date(2026, 11, 20)
VERSIONS = {"openvino": "2026.4.1-19999-abcdef", "torch": "2.15.0+cpu"}
ENTRY = """
[[waiver]]
id = "openvino-ir-pooler"
check = ["parity.boxes", "parity.classes"]
model = ["tv_maskrcnn_tiny"]
variant = ["f32"]
device = "*"
kind = "upstream"
reason = "The pooler rounds."
stage = "pooler"
finding = "openvino-ir-pooler"
when = { openvino = ">=2026.4,<2026.5" }
expires = 2026-12-31
"""
CELL = Cell("tv_maskrcnn_tiny", "openvino_ir", "f32", "cpu")
FAILED = Record("parity.boxes", CELL, Status.FAILED, "a box differs", 10)


def load(folder: Path, text: str, name: str = "openvino_ir.toml") -> tuple[Waiver, ...]:
    (folder / name).write_text(text)
    return load_waivers(folder)


@pytest.fixture
def waivers(tmp_path: Path) -> tuple[Waiver, ...]:
    return load(tmp_path, ENTRY)


@pytest.mark.parametrize("status", [Status.FAILED, Status.ERRORED])
def test_a_known_divergence_is_waived_and_keeps_its_reason(waivers: tuple[Waiver, ...], status: Status) -> None:
    found = apply(dataclasses.replace(FAILED, status=status), waivers, VERSIONS, TODAY)
    assert (found.status, found.waiver, found.reason) == (Status.WAIVED, "openvino-ir-pooler", "a box differs")


def test_one_that_passes_is_stale_and_named(waivers: tuple[Waiver, ...]) -> None:
    found = apply(dataclasses.replace(FAILED, status=Status.PASSED), waivers, VERSIONS, TODAY)
    assert (found.status, found.waiver) == (Status.PASSED, "openvino-ir-pooler")


def test_words_that_the_reason_must_say(tmp_path: Path) -> None:
    worded = load(tmp_path, ENTRY + 'says = "GuardError"\n')
    guarded = dataclasses.replace(FAILED, status=Status.ERRORED, reason="it raised a GuardError: no")
    assert apply(guarded, worded, VERSIONS, TODAY).status is Status.WAIVED
    other = apply(dataclasses.replace(guarded, reason="it raised a MemoryError"), worded, VERSIONS, TODAY)
    assert other.status is Status.ERRORED
    assert other.reason.endswith("Waiver openvino-ir-pooler does not hold: the reason does not say GuardError.")
    assert apply(dataclasses.replace(FAILED, status=Status.PASSED), worded, VERSIONS, TODAY).waiver == "openvino-ir-pooler"


def test_where_chance_decides_a_failure_is_waived_and_a_pass_is_not_stale(tmp_path: Path) -> None:
    unsteady = load(tmp_path, ENTRY + "unsteady = true\n")
    assert apply(FAILED, unsteady, VERSIONS, TODAY).status is Status.WAIVED
    passed = dataclasses.replace(FAILED, status=Status.PASSED)
    assert apply(passed, unsteady, VERSIONS, TODAY) == passed


@pytest.mark.parametrize("status", [Status.DECLINED, Status.INCONCLUSIVE, Status.MISSING, Status.WAIVED])
def test_nothing_else_is_waived(waivers: tuple[Waiver, ...], status: Status) -> None:
    record = dataclasses.replace(FAILED, status=status)
    assert apply(record, waivers, VERSIONS, TODAY) == record


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(FAILED, check="parity.scores"),
        *(dataclasses.replace(FAILED, cell=dataclasses.replace(CELL, **{f: "other"})) for f in ("model", "backend", "variant")),
    ],
)
def test_another_check_or_cell_is_not_covered(waivers: tuple[Waiver, ...], record: Record) -> None:
    assert apply(record, waivers, VERSIONS, TODAY) == record


def test_each_check_that_is_listed_is_waived_and_stale_by_itself(waivers: tuple[Waiver, ...]) -> None:
    for check in ("parity.boxes", "parity.classes"):
        record = dataclasses.replace(FAILED, check=check)
        assert apply(record, waivers, VERSIONS, TODAY).status is Status.WAIVED
        stale = apply(dataclasses.replace(record, status=Status.PASSED), waivers, VERSIONS, TODAY)
        assert (stale.status, stale.waiver) == (Status.PASSED, "openvino-ir-pooler")


def test_a_star_covers_every_name(waivers: tuple[Waiver, ...]) -> None:
    elsewhere = dataclasses.replace(FAILED, cell=dataclasses.replace(CELL, device="cuda"))
    assert apply(elsewhere, waivers, VERSIONS, TODAY).status is Status.WAIVED


def test_its_last_day_still_counts_and_the_next_does_not(waivers: tuple[Waiver, ...]) -> None:
    assert apply(FAILED, waivers, VERSIONS, date(2026, 12, 31)).status is Status.WAIVED
    found = apply(FAILED, waivers, VERSIONS, date(2027, 1, 1))
    assert (found.status, found.waiver) == (Status.FAILED, None)
    assert found.reason == "a box differs. Waiver openvino-ir-pooler does not hold: expired on 2026-12-31."


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"openvino": "2026.5.0"}, "openvino is 2026.5.0, outside >=2026.4,<2026.5"),
        ({"openvino": "2026.3.9-1-x"}, "outside"),
        ({}, "the version of openvino is not known"),
    ],
)
def test_outside_its_versions_the_check_is_judged_afresh(waivers: tuple[Waiver, ...], versions: dict[str, str], words: str) -> None:
    found = apply(FAILED, waivers, versions, TODAY)
    assert found.status is Status.FAILED
    assert words in found.reason
    passed = dataclasses.replace(FAILED, status=Status.PASSED)
    assert apply(passed, waivers, versions, TODAY) == passed


@pytest.mark.parametrize("version", ["2026.4.0", "2026.4.1-19999-abcdef", "2026.4.2.dev1", "2026.4.1+local"])
def test_versions_as_libraries_really_print_them(waivers: tuple[Waiver, ...], version: str) -> None:
    assert apply(FAILED, waivers, {"OpenVINO": version}, TODAY).status is Status.WAIVED


def test_an_effective_precision_that_is_asked_for_must_be_the_one(tmp_path: Path) -> None:
    bounded = load(tmp_path, ENTRY + 'precision = "fp32"\n')
    assert apply(FAILED, bounded, VERSIONS, TODAY, precision="fp32").status is Status.WAIVED
    assert apply(FAILED, bounded, VERSIONS, TODAY, precision="bf16").status is Status.FAILED
    assert apply(FAILED, bounded, VERSIONS, TODAY).status is Status.FAILED


def test_a_second_waiver_in_range_holds_where_the_first_is_not(tmp_path: Path) -> None:
    later = ENTRY.replace("openvino-ir-pooler", "openvino-ir-new").replace(">=2026.4,<2026.5", ">=2026.5")
    found = apply(FAILED, load(tmp_path, ENTRY + later), {"openvino": "2026.6"}, TODAY)
    assert (found.status, found.waiver) == (Status.WAIVED, "openvino-ir-new")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "upstream"', 'kind = "theirs"', "waiver openvino-ir-pooler: kind"),
        ("stage = ", "first_stage = ", "the key stage is missing; there is no key first_stage"),
        ("stage = ", "stage = 1 #", "stage: Input should be a valid string"),
        ('"parity.classes"', '"parity.class"', "no check 'parity.class'"),
        ('["parity.boxes", "parity.classes"]', "[]", "check"),
        ('["parity.boxes", "parity.classes"]', '"parity.boxes"', "check"),
        (">=2026.4,<2026.5", "2026.4", "no version range"),
        ('{ openvino = ">=2026.4,<2026.5" }', "{}", "when"),
        ("expires = 2026-12-31", "", "the key expires is missing"),
        ("expires = 2026-12-31", 'expires = "soon"', "expires"),
        ('["tv_maskrcnn_tiny"]', '"tv_*"', 'is "*" by itself, for all, or a list of names'),
        ('["tv_maskrcnn_tiny"]', '["*"]', 'is "*" by itself, for all, or a list of names'),
        ('["tv_maskrcnn_tiny"]', "[]", "list of names"),
        ('reason = "The pooler rounds."', 'reason = ""', "reason"),
        ("[[waiver]]", "[[waver]]", "waver is not a [[waiver]] entry"),
        ("[[waiver]]", "[waiver]", "Begin each entry with [[waiver]]."),
        (
            "expires = 2026-12-31",
            'expires = 2026-12-31\nprecision = "float32"',
            "precision: Input should be 'fp32', 'fp16', 'bf16' or 'int8'",
        ),
        ("[[waiver]]", "[[waiver]]\nbackend = 'torch_eager'", "file's name says the backend"),
        ("[[waiver]]", "[[waiver", "openvino_ir.toml"),
        ('id = "openvino-ir-pooler"', 'id = "Two Words"', "id"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_and_entry(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in ENTRY
    with pytest.raises(InvalidWaivers) as error:
        load(tmp_path, ENTRY.replace(old, new))
    assert "openvino_ir.toml" in str(error.value)
    assert words in str(error.value)


def test_an_id_is_used_once_over_all_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidWaivers, match=r"it stands twice in openvino_ir\.toml"):
        load(tmp_path, ENTRY + ENTRY)
    load(tmp_path, ENTRY)
    with pytest.raises(InvalidWaivers, match=r"openvino_ir\.toml: the id .* it stands in onnxruntime_session\.toml too"):
        load(tmp_path, ENTRY, "onnxruntime_session.toml")


def check(folder: Path, old: str, new: str, name: str = "openvino_ir.toml") -> tuple[str, ...]:
    assert old in ENTRY
    return check_names(load(folder, ENTRY.replace(old, new), name), ["tv_maskrcnn_tiny"], {"openvino_ir": ["f32"]}, ["cpu"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["tv_maskrcnn_tiny"]', '["tv_maskrcnn_tiny", "tv_mask"]', "unknown model 'tv_mask'"),
        ('variant = ["f32"]', 'variant = ["fp32"]', "unknown variant 'fp32'"),
        ('device = "*"', 'device = ["gpu"]', "unknown device 'gpu'"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error_that_lists_those_that_do(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert check(tmp_path, old, old) == ()
    with pytest.raises(InvalidWaivers, match=r"openvino_ir\.toml, waiver openvino-ir-pooler: ") as error:
        check(tmp_path, old, new)
    assert words in str(error.value)
    assert "Valid: " in str(error.value)


def test_a_backend_that_is_not_here_is_told_and_its_variants_are_let_be(tmp_path: Path) -> None:
    assert check(tmp_path, '["f32"]', '["own"]', "openvin_ir.toml") == ("openvin_ir",)


def test_of_two_shipped_waivers_about_one_verdict_the_second_is_unsteady_and_of_another_stage() -> None:
    """A steady second would never be seen to be stale; of one stage, the first would tell the wrong reason."""
    cells = [
        Cell(model, ref.name, variant.id, device)
        for model in registry.models()
        for ref in registry.adapters().values()
        for variant in ref.load().variants
        for device in DEVICES
    ]
    shipped = load_waivers()
    for check in CHECKS:
        for cell in cells:
            named = [one for one in shipped if one.covers(check, cell) and one.precision is None]
            stages = {one.stage.partition(" (")[0] for one in named}
            assert all(one.unsteady for one in named[1:]), (check, str(cell), [one.id for one in named])
            assert len(stages) == len(named), (check, str(cell), stages)


def test_the_shipped_waivers_name_what_exists() -> None:
    variants = {name: [variant.id for variant in ref.load().variants] for name, ref in registry.adapters().items()}
    assert check_names(load_waivers(), registry.models(), variants, DEVICES) == ()


def test_waivers_of_several_folders_hold_together(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for folder in (shipped, own):
        folder.mkdir()
    load(shipped, ENTRY)
    (own / "my_runtime.toml").write_text(ENTRY.replace('id = "openvino', 'id = "mine', 1))
    assert [waiver.backend for waiver in load_waivers(shipped, own)] == ["openvino_ir", "my_runtime"]
    (own / "my_runtime.toml").write_text(ENTRY)
    with pytest.raises(InvalidWaivers, match=r"stands in openvino_ir\.toml too"):
        load_waivers(shipped, own)


def test_a_folder_without_waivers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidWaivers, match="holds no waivers"):
        load_waivers(tmp_path)


def test_the_shipped_waivers_can_be_read_and_the_documented_one_too(tmp_path: Path) -> None:
    assert isinstance(load_waivers(), tuple)
    text = (Path(__file__).parents[3] / "docs" / "waivers.md").read_text().split("```")[1].removeprefix("toml")
    (found,) = load(tmp_path, text)
    assert found.covers("parity.boxes", dataclasses.replace(CELL, model="tv_maskrcnn_tiny"))


STATUSES = st.sampled_from(Status)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, date, str, bool]:
    """A waiver's text, its last day, the version range it is bound to, and whether chance decides."""
    last = draw(st.dates(date(2026, 11, 18), date(2026, 11, 22)))
    within = draw(st.sampled_from([">=2026.4,<2026.5", ">=2026.5", "==2026.3.*", ">=2026"]))
    unsteady = draw(st.booleans())
    text = ENTRY.replace("2026-12-31", last.isoformat()).replace(">=2026.4,<2026.5", within)
    return text + f"unsteady = {str(unsteady).lower()}\n", last, within, unsteady


@pytest.mark.covers("M21")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=written(), status=STATUSES, covered=st.booleans())
def test_whatever_it_says_a_waiver_turns_a_failure_in_range_into_waived_and_changes_nothing_else(
    tmp_path: Path, made: tuple[str, date, str, bool], status: Status, covered: bool
) -> None:
    text, last, within, unsteady = made
    waivers = load(tmp_path, text)
    assert Waiver.model_validate_json(waivers[0].model_dump_json()) == waivers[0]
    record = dataclasses.replace(FAILED, status=status, check="parity.boxes" if covered else "parity.scores")
    found = apply(record, waivers, VERSIONS, TODAY)
    holds = covered and last >= TODAY and within in (">=2026.4,<2026.5", ">=2026")
    if status in (Status.FAILED, Status.ERRORED):
        assert found.status is (Status.WAIVED if holds else status)
        assert (found.waiver == waivers[0].id) == holds
        # A waiver that does not hold says why, where it is about the record at all.
        assert ("does not hold" in found.reason) == (covered and not holds)
    elif status is Status.PASSED:
        assert found == dataclasses.replace(record, waiver=waivers[0].id if holds and not unsteady else None)
    else:
        assert found == record


@pytest.mark.covers("M21")
@settings(deadline=None, max_examples=40)
@given(st.permutations(range(3)), STATUSES)
def test_one_that_holds_waives_wherever_it_stands_among_those_that_do_not(order: list[int], status: Status) -> None:
    text = (ENTRY, ENTRY.replace("2026-12-31", "2026-01-01"), ENTRY.replace(">=2026.4,<2026.5", "<2026"))
    three = [Waiver(**{**tomllib.loads(one)["waiver"][0], "id": f"w{n}", "backend": "openvino_ir"}) for n, one in enumerate(text)]
    found = apply(dataclasses.replace(FAILED, status=status), tuple(three[n] for n in order), VERSIONS, TODAY)
    assert found.waiver == ("w0" if status in (Status.FAILED, Status.ERRORED, Status.PASSED) else None)
