"""Backends by name: built in, of another package, from a file; and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.adapters.torch_eager import ADAPTER as EAGER
from harness.errors import UnknownName, UsageError
from harness.registry import AdapterRef, adapters, file_ref, load_adapter, load_adapter_file, load_model, models, split_target

GOOD = """
from harness.types import Variant

class Mine:
    name = "mine"
    requires = ()
    variants = (Variant("fp32"),)
    def declines(self, model, variant, device): return None
    def build(self, model, variant, artifact): ...
    def open(self, artifact, variant, device): ...

ADAPTER = Mine()
"""

Announce = Callable[[str, str, str], None]


@pytest.fixture
def announce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Announce:
    """Install a package, as metadata on the path, that announces one adapter: (distribution, name, target)."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def _announce(distribution: str, name: str, target: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[harness.adapters]\n{name} = {target}\n")

    return _announce


def test_built_in_backends_are_found_and_are_what_they_are_called() -> None:
    found = adapters()
    assert list(found) == sorted(found)
    assert {ref.load().name for ref in found.values() if ref.source == "detection-harness"} <= set(found)
    assert load_adapter("torch_eager") is EAGER


def test_a_backend_of_another_package_is_found(announce: Announce, tmp_path: Path) -> None:
    (tmp_path / "their_backend.py").write_text(GOOD)
    announce("their-package", "mine", "their_backend:ADAPTER")
    assert adapters()["mine"] == AdapterRef("mine", "their_backend:ADAPTER", "their-package")
    assert load_adapter("mine").name == "mine"


def test_finding_imports_no_adapter(announce: Announce, tmp_path: Path) -> None:
    (tmp_path / "never_imported.py").write_text("raise RuntimeError('imported')")
    announce("their-package", "mine", "never_imported:ADAPTER")
    assert "mine" in adapters()
    assert "never_imported" not in sys.modules


def test_two_packages_cannot_share_a_name(announce: Announce) -> None:
    announce("their-package", "torch_eager", "theirs:ADAPTER")
    with pytest.raises(UsageError, match=r"two backends are named 'torch_eager'.*their-package"):
        adapters()


def test_an_announced_adapter_that_does_not_import_is_one_sentence(announce: Announce) -> None:
    announce("their-package", "mine", "no_such_module:ADAPTER")
    with pytest.raises(UsageError, match="adapter 'mine' of their-package does not import: ModuleNotFoundError"):
        load_adapter("mine")


def test_an_announced_adapter_must_be_called_what_it_is(announce: Announce, tmp_path: Path) -> None:
    (tmp_path / "misnamed.py").write_text(GOOD)
    announce("their-package", "other", "misnamed:ADAPTER")
    with pytest.raises(UsageError, match="named 'mine' but announced as 'other'"):
        load_adapter("other")


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="torch_eager") as caught:
        load_adapter("torch_eagre")
    assert "Did you mean 'torch_eager'?" in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=next(iter(models()))):
        load_model("no_such_model")


def test_a_file_gives_its_adapter(tmp_path: Path) -> None:
    path = tmp_path / "my_backend.py"
    path.write_text(GOOD)
    adapter = load_adapter_file(f"{path}:ADAPTER")
    assert adapter.name == "mine"
    assert load_adapter_file(str(path)) is adapter
    ref = file_ref(str(path))
    assert ref == AdapterRef("mine", f"{path}:ADAPTER", "my_backend.py")
    assert ref.load() is adapter


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "does not import: ZeroDivisionError"),
        ("def broken(:", "does not import: SyntaxError"),
        ("", "there is no ADAPTER in it"),
        (GOOD.replace("ADAPTER = Mine()", "ADAPTER = Mine"), "it is the class Mine"),
        (GOOD.replace('name = "mine"', 'name = "not a word"'), "its name is 'not a word'"),
        (GOOD.replace("requires = ()", 'requires = "torch"'), "its requires is 'torch'"),
        (GOOD.replace('(Variant("fp32"),)', "()"), r"its variants is \(\)"),
        (GOOD.replace('(Variant("fp32"),)', '(Variant("a"), Variant("a"))'), "the same id: a, a"),
        (GOOD.replace("def open", "def close"), "it has no method open"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        load_adapter_file(f"{path}:ADAPTER")
    assert caught.value.cure


@pytest.mark.parametrize("target", ["mine", "mine.txt:ADAPTER", "mine.py:", "mine.py:not a name", ""])
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=r"not of the form file\.py:NAME"):
        split_target(target)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_adapter_file(str(tmp_path / "absent.py"))
