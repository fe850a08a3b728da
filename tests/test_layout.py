"""The layout's own rules: what a reviewer would otherwise have to look for."""

import ast
import hashlib
import importlib
import os
import re
import tomllib
from pathlib import Path

import pytest

import qatc
import qatc.passes
from qatc import ir
from qatc.pipeline import Pass

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LONGEST_FILE = {"qatc": 400, "passes": 400, "tools": 400, "tests": 500}  # a test's expected text counts too
PASS_FILES = sorted(path for path in (ROOT / "passes").glob("*.py") if path.stem != "__init__")
SOURCES = sorted(
    path
    for folder in ("qatc", "passes", "tools", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts and (ROOT / "qatc" / "passes") not in path.parents
)
PAGE_FILES = sorted(
    path
    for suffix in ("js", "css", "html")
    for path in (ROOT / "qatc").rglob(f"*.{suffix}")
    if "vendor" not in path.parts
)


def test_every_package_is_listed_for_the_wheel() -> None:
    found = {path.parent.relative_to(ROOT) for path in (ROOT / "qatc").rglob("__init__.py")} | {Path("qatc/passes")}
    assert sorted(".".join(path.parts) for path in found) == sorted(PYPROJECT["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "qatc").rglob("*.py")}
    assert folders <= found, "a folder of modules without an __init__.py is no package"


def test_qatc_passes_is_a_link_to_passes() -> None:
    link = ROOT / "qatc" / "passes"
    assert link.is_symlink()
    assert os.readlink(link) == "../passes"
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == {"qatc": "qatc", "qatc.passes": "passes"}


def test_passes_are_not_imported_under_a_second_name() -> None:
    with pytest.raises(ImportError, match="second copy"):
        importlib.import_module("passes")


@pytest.mark.parametrize("path", PASS_FILES, ids=lambda path: path.stem)
def test_a_pass_has_one_name_in_three_spellings_and_a_test(path: Path) -> None:
    """File dedup_modules.py, name dedup-modules, class DedupModules, tests/passes/test_dedup_modules.py."""
    camel = "".join(part.capitalize() for part in path.stem.split("_"))
    kind = getattr(importlib.import_module(f"qatc.passes.{path.stem}"), camel)
    assert issubclass(kind, Pass)
    assert kind.name == path.stem.replace("_", "-")
    assert camel in qatc.passes.__all__
    assert (ROOT / "tests" / "passes" / f"test_{path.stem}.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE[folder]


@pytest.mark.parametrize("path", PAGE_FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_is_too_long_to_read(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_FILE["qatc"]
    assert max(map(len, lines)) <= 240, "short lines, else the limit on their number says nothing"


def test_the_page_and_its_library_are_in_the_wheel() -> None:
    assert PYPROJECT["tool"]["setuptools"]["package-data"]["qatc.view"] == ["assets/*", "vendor/*"]
    assert {path.parent.name for path in PAGE_FILES} == {"assets"}, "vendored files are not for reading"


def test_a_vendored_library_is_named_with_its_license_and_unchanged() -> None:
    vendor = ROOT / "qatc" / "view" / "vendor"
    rows = [line.strip("| ").split(" | ") for line in (vendor / "README.md").read_text("utf-8").splitlines()[-1:]]
    licenses = {row[3].rpartition(", ")[2] for row in rows}
    assert {path.name for path in vendor.iterdir()} == {"README.md", *licenses, *(row[0] for row in rows)}
    for name, _, version, _, digest in rows:
        content = (vendor / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert version.encode() in content


def test_the_public_api_is_what_it_says() -> None:
    assert sorted(qatc.__all__) == [
        "LayerConfig", "LoweringOptions", "Oscillation", "Pass", "Pipeline", "PreparedModel", "QConfig", "QatcError",
        "QatcWarning", "QuantSpec", "Rule", "ScaleHistory", "Schedule", "Target", "__version__", "accumulators",
        "calibrate", "clip_weights", "correct_biases", "debug", "equalize", "float_mode", "float_state_dict",
        "freeze_bn", "freeze_ranges", "load", "lower", "param_groups", "prepare", "quantize", "reestimate_bn",
        "replace_placement", "save", "sensitivity", "targets",
    ]  # fmt: skip
    assert all(hasattr(qatc, name) for name in qatc.__all__)
    assert qatc.__version__ == PYPROJECT["project"]["version"]


def test_only_ir_knows_the_keys_of_node_meta() -> None:
    keys = re.compile("|".join(f"['\"]{key}['\"]" for key in vars(ir).values() if str(key).startswith("qatc_")))
    assert [path.name for path in SOURCES if keys.search(path.read_text(encoding="utf-8"))] == ["ir.py"]


def test_targets_are_data() -> None:
    for path in (ROOT / "qatc" / "targets").glob("*.py"):
        if path.stem not in ("__init__", "target"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert not [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)], path.name


def test_nothing_shipped_imports_the_tools_or_the_tests() -> None:
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] in ("qatc", "passes"):
            assert not re.search(r"^\s*(from|import) (tools|tests)\b", path.read_text("utf-8"), re.M), path.name
