"""What a row of tests/mutation.py is: texts to replace, and the tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "tests/bound/test_release_lipschitz.py"
ATTAINED = f"{RELEASE}::test_each_term_is_attained"
SEQUENTIAL = "tests/bound/test_sequential.py"
BY_HAND = tuple(f"{SEQUENTIAL}::{name}" for name in ("test_two_layers_written_out", "test_section_h_written_out"))
TABLES = "tests/bound/test_tables.py"


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which occurs exactly once in `file` (below covergraph/), by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A named break; `both`: in the matrix form and in the expressions."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    both: bool = False


def row(name: str, file: str, old: str, new: str, *tests: str, both: bool = False) -> Mutation:
    """A break in one place."""
    return Mutation(name, (Edit(file, old, new),), tests, both)


def three(term: str, matrix: tuple[str, str, str], expression: tuple[str, str, str]) -> tuple[Mutation, ...]:
    """A term of Theorem 2 broken in the matrix form, in the expressions, and in both."""
    one, two = Edit(*matrix), Edit(*expression)
    return (
        Mutation(f"T2: {term}, matrix form", (one,), (ATTAINED, TABLES)),
        Mutation(f"T2: {term}, expressions", (two,), (SEQUENTIAL, TABLES)),
        Mutation(f"T2: {term}, both", (one, two), (ATTAINED, *BY_HAND), both=True),
    )
