"""Tables and paragraphs in Markdown."""

from __future__ import annotations

from textwrap import fill


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def listed(words: list[str]) -> str:
    return ", ".join(words) or "none"


def wrapped(paragraph: str) -> str:
    return paragraph if paragraph[0] in "#|!" else fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)
