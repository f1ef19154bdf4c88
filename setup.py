"""List the packages: covergraph/ itself, and tracers/ and models/ below its name."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MAPPED = ("tracers", "models")


def mapped(folder: str) -> list[str]:
    """Return the names under which ``folder`` and its subpackages are installed."""
    below = [f"{folder}.{name}" for name in find_packages(str(ROOT / folder))]
    return [f"covergraph.{name}" for name in (folder, *below)]


# Type checkers need the links covergraph/tracers and covergraph/models; here they would be found twice.
own = find_packages(str(ROOT), include=["covergraph", "covergraph.*"], exclude=[f"covergraph.{m}*" for m in MAPPED])

setup(
    packages=own + [name for folder in MAPPED for name in mapped(folder)],
    package_dir={f"covergraph.{folder}": folder for folder in MAPPED},
    package_data={"covergraph": ["py.typed"]},
)
