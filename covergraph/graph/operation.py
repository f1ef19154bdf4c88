"""The base of all operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """Base of all operations; the slots of an operation are its ordered inputs."""

    @property
    def label(self) -> str:
        """The short word that stands for the operation in text and drawings."""
        return type(self).__name__.lower()
