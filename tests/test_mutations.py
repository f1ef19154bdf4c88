"""The rows of `make mutation` still fit the code and the tests that they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutation_rows import Mutation
from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("row", MUTATIONS, ids=lambda row: row.name)
def test_each_text_to_break_occurs_once(row: Mutation) -> None:
    for edit in row.edits:
        assert (ROOT / "covergraph" / edit.file).read_text().count(edit.old) == 1
        assert edit.new != edit.old
    for test in row.tests:
        assert (ROOT / test.partition("::")[0]).exists()


def test_names_are_unique() -> None:
    assert len({row.name for row in MUTATIONS}) == len(MUTATIONS)
