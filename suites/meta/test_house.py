"""The rules of the house that a linter cannot know: where things stand, what may import what, and how big they may grow."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.environment import constraints
from harness.registry import adapters

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("fixtures", "harness", "reports", "suites")
SHIPPED = sorted(
    path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.relative_to(ROOT).parts[:2] != ("suites", "meta")
)
UNDER_TEST = {"torch", "torchvision", "detectron2", "openvino", "onnxruntime", "onnx", "bentoml"}
MAY_IMPORT_THEM = (
    "harness/adapters/",
    "harness/families/",
    "harness/stages/",
    "harness/serving/",
    "harness/tracing.py",
    "fixtures/",
    "harness/drawing.py",
)
REFERENCE = "torch_eager"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The top-level names that these nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: bodies of functions and of ``if TYPE_CHECKING`` are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import_time(node)


def test_the_rules_look_at_something() -> None:
    assert len(SHIPPED) > 30
    assert {name_of(path).partition("/")[0] for path in SHIPPED} == set(ROOMS)


def test_libraries_under_test_are_never_imported_at_import_time() -> None:
    # What `bentoml serve` loads is BentoML's from its first line.
    theirs = {"harness/serving/service.py", "harness/serving/legacy_target.py"}
    shipped = [path for path in SHIPPED if name_of(path) not in theirs]
    wrong = [(name_of(path), name) for path in shipped for name in imports(at_import_time(tree_of(path))) if name in UNDER_TEST]
    assert wrong == []


def test_only_adapters_families_and_fixtures_import_libraries_under_test() -> None:
    elsewhere = [path for path in SHIPPED if not name_of(path).startswith(MAY_IMPORT_THEM)]
    wrong = [(name_of(path), name) for path in elsewhere for name in imports(ast.walk(tree_of(path))) if name in UNDER_TEST]
    assert wrong == []


def test_only_the_plugin_imports_pytest() -> None:
    inside = [path for path in SHIPPED if not name_of(path).startswith("suites/")]
    assert [name_of(path) for path in inside if "pytest" in imports(at_import_time(tree_of(path)))] == ["harness/plugin.py"]


def test_every_library_that_is_imported_is_asked_for() -> None:
    project = PROJECT["project"]
    extras = [text for name, texts in project["optional-dependencies"].items() if name != "test" for text in texts]
    declared = {canonicalize_name(Requirement(text).name) for text in (*project["dependencies"], *extras)}
    # Detectron2 is on no index, and what it brings is there with it
    known = declared | {"detectron2", "detection-harness"}
    providers = packages_distributions()
    names = {name for path in SHIPPED for name in imports(ast.walk(tree_of(path)))} - set(sys.stdlib_module_names) - {"harness"}
    missing = {name for name in names if not {canonicalize_name(dist) for dist in providers.get(name, [name])} & known}
    assert missing <= {"fvcore", "omegaconf", "pkg_resources"}


def test_every_adapter_file_is_one_backend_and_one_line() -> None:
    lines = PROJECT["project"]["entry-points"]["harness.adapters"]
    files = {
        path.stem for path in (ROOT / "harness/adapters").glob("*.py") if re.search(r"^ADAPTER\b", path.read_text(), re.MULTILINE)
    }
    assert set(lines) == files
    for name, target in lines.items():
        assert target == f"harness.adapters.{name}:ADAPTER"
        assert adapters()[name].load().name == name


def test_a_backend_is_named_in_its_own_file_only() -> None:
    # so that a new backend is one file and one line; the reference alone has a part of its own to play
    names = set(PROJECT["project"]["entry-points"]["harness.adapters"]) - {REFERENCE}
    strings = (
        (path, node.value)
        for path in SHIPPED
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    wrong = [f"{name_of(path)} names {text}" for path, text in strings if text in names and path.stem != text]
    assert wrong == []


def test_waiver_files_are_named_for_a_backend() -> None:
    assert {path.stem for path in (ROOT / "fixtures/waivers").glob("*.toml")} <= set(adapters())


def test_every_package_is_in_the_wheel() -> None:
    folders = {path.parent for path in SHIPPED}
    found = {name_of(folder).replace("/", ".") for folder in folders}
    expected = {name if name.startswith("harness") else f"harness.{name}" for name in found}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_nothing_has_a_name_that_says_nothing() -> None:
    names = {part for path in SHIPPED for part in (path.stem, path.parent.name)}
    assert names.isdisjoint({"utils", "util", "helpers", "base", "common", "manager", "misc"})


def test_functions_are_seen_at_once() -> None:
    lengths = {
        f"{name_of(path)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SHIPPED
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    percentile_95 = statistics.quantiles(lengths.values(), n=20)[-1]
    assert percentile_95 < 40
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_files_are_of_one_idea() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SHIPPED}
    over = {name: length for name, length in lengths.items() if length > 300}
    assert len(over) <= len(lengths) // 20
    assert {name: length for name, length in over.items() if length > 450} == {}


def test_nothing_is_put_off_in_a_comment() -> None:
    mark = re.compile(r"#.*\b(TODO|FIXME|XXX)\b")
    everything = {*SHIPPED, *(ROOT / "suites/meta").rglob("*.py"), *(ROOT / "docs").rglob("*.py")} - {Path(__file__)}
    assert [name_of(path) for path in everything if mark.search(path.read_text(encoding="utf-8"))] == []


def test_every_ignored_rule_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.pydocstyle]")]
    codes = re.findall(r'^ {4}"[A-Z]+\d*",.*$', section, re.MULTILINE)
    assert len(codes) > 10
    assert [line for line in codes if not re.search(r"# \S", line)] == []


def test_versions_under_test_are_pinned_and_allowed() -> None:
    project = PROJECT["project"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    pins = constraints()
    for requirement in wanted:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not allow the tested {pin}"
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==\S+", line)] == []
    assert "detectron2" not in pins


def test_the_wheel_carries_the_same_constraints() -> None:
    assert (ROOT / "harness/constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("module", ["harness.cli", "harness.plugin", "harness.registry", "harness.environment", "harness.doctor"])
def test_imports_no_library_under_test(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert UNDER_TEST.isdisjoint(json.loads(done.stdout))


@pytest.mark.alone
def test_the_plugin_costs_other_peoples_runs_nothing_to_speak_of() -> None:
    code = (
        "import sys, pytest, time\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "import harness.plugin\n"
        "print(time.process_time() - start, *sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        for _ in range(5)
    ]
    assert min(float(seconds) for seconds, *_ in runs) < 0.05
    third_parties = set(runs[0][1:]) - set(sys.stdlib_module_names) - {"harness"}
    assert third_parties == set()


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=False, cwd=ROOT)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("this is no git checkout, so the project's own files cannot be told from others")
    place = re.compile(r"/root/|/home/\w|file:///|index-url")
    files = {ROOT / name for name in listed.stdout.rstrip("\0").split("\0")} - {Path(__file__)}
    texts = [path for path in files if path.is_file() and path.suffix not in {".safetensors", ".png"}]
    assert len(texts) > 50
    assert [name_of(path) for path in texts if place.search(path.read_text(encoding="utf-8"))] == []
