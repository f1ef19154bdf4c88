"""The code in the documentation runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from covergraph.graph.calls import CALLS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def _registry() -> Iterator[None]:
    """What a page registers is forgotten afterwards."""
    before = dict(CALLS)
    yield
    CALLS.clear()
    CALLS.update(before)


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("page", ["README", "docs/adding_an_op", "docs/measuring", "docs/recording", "docs/tracing"])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what the page writes
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / f"{page}.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks, f"{page} has no python block"
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_docstrings_cite_statements_that_exist() -> None:
    stated = set(re.findall(r"(Theorem|Lemma|Proposition|Corollary|Definition) (L?\d+'?(?:\.\d+)?)", _mathematics()))
    cited: set[tuple[str, str]] = set()
    citation = re.compile(r"(Lemma|Proposition|Corollary|Definition) (L?\d+'?(?:\.\d+)?)")
    for folder in ("covergraph", "tracers"):
        for file in (ROOT / folder).rglob("*.py"):
            if "paper" not in file.name:
                cited |= set(citation.findall(file.read_text()))
    foreign = {("Lemma", "3.2"), ("Lemma", "4.1")}
    assert cited - foreign <= stated
    assert cited


def _mathematics() -> str:
    return (ROOT / "docs" / "mathematics.md").read_text()
