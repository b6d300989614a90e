"""Tags are what BentoML takes, and nothing that leads out of a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.serving.tags import Tag

pytestmark = pytest.mark.covers("M1", "M21")

PARTS = st.from_regex(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(PARTS, PARTS)
def test_a_tag_reads_back(name: str, version: str) -> None:
    assert Tag.read(str(Tag(name, version))) == Tag(name, version)
    assert Tag.read(name) == Tag(name)
    assert Tag.read(f"{name}:{version}".upper()) == Tag(name, version)


@given(st.text(max_size=70))
def test_no_text_at_all_becomes_a_path_outside(text: str) -> None:
    try:
        tag = Tag.read(text)
    except UsageError as error:
        assert "\n  " in str(error)  # noqa: PT017 - both ends are asserted about
        return
    for part in (tag.name, tag.version or "a"):
        assert part not in {"", ".", ".."}
        assert not set(part) & set("/\\\0: \n\t~*?")


@pytest.mark.parametrize(
    "text",
    ["", "..", "a/b", "../a", "a:../b", "a:b/c", "a\n", "a:v\n", "a b", "-a", "a-", "a:", ":v", "a:b:c", "a" * 64, "ä", "a\0", "~"],
)
def test_hostile_tags_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be the name|ends in a colon"):
        Tag.read(text)


@pytest.mark.parametrize(("text", "is_open"), [("a", True), ("a:latest", True), ("a:v1", False)])
def test_a_tag_may_leave_the_version_open(text: str, is_open: bool) -> None:
    assert Tag.read(text).open is is_open


@given(PARTS, PARTS)
def test_bentoml_reads_them_alike(name: str, version: str) -> None:
    bentoml = pytest.importorskip("bentoml")
    theirs = bentoml.Tag.from_taglike(f"{name}:{version}")
    assert (theirs.name, theirs.version) == (name, version)
