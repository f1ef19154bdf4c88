"""What is installed is what is in the tree: a forgotten subpackage would be missing in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_AS = {"covergraph": "covergraph", "tracers": "covergraph/tracers", "models": "covergraph/models"}


def python_files(folder: Path) -> set[str]:
    """The .py files below `folder`, relative to it; os.walk does not enter the links to tracers and models."""
    return {
        (Path(directory) / name).relative_to(folder).as_posix()
        for directory, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel that is built from a copy of the tree, so that no earlier build helps it."""
    work = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")
    tree = shutil.copytree(ROOT, work / "tree", symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(work), str(tree)], check=True)
    (built,) = work.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_wheel_has_each_python_file_of_the_tree_once(wheel: list[str]) -> None:
    expected = [f"{name}/{file}" for folder, name in INSTALLED_AS.items() for file in python_files(ROOT / folder)]
    assert len(expected) > 20
    assert sorted(file for file in wheel if file.endswith(".py")) == sorted(expected)


def test_wheel_is_typed_and_puts_one_name_at_top_level(wheel: list[str]) -> None:
    assert "covergraph/py.typed" in wheel
    assert {file.split("/")[0] for file in wheel if ".dist-info/" not in file} == {"covergraph"}


@pytest.mark.parametrize("folder", ["tracers", "models"])
def test_links_for_type_checkers_lead_to_the_sources(folder: str) -> None:
    link = ROOT / "covergraph" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}"


@pytest.mark.parametrize("folder", ["tracers", "models"])
def test_a_second_copy_of_the_classes_is_refused(folder: str) -> None:
    code = f"import {folder}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"ImportError: imported as '{folder}', expected 'covergraph.{folder}'" in result.stderr
