"""What refuses inside of a training loop ends the recording, not the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from covergraph.errors import CovergraphError


class Guard:
    """Runs what a recorder does within a user's loop.

    The first error is kept as `reason`, told to `on_stop`, and warned of, once; afterwards nothing runs any more. With
    `strict` errors are raised, and nothing is stopped. What the user's own code raises does not come through here.
    """

    def __init__(self, strict: bool) -> None:
        self.strict, self.reason = strict, ""
        self.on_stop: Callable[[str], None] = _nothing

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, guarded; it returns None once it has refused."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.reason:
                return None
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if self.strict:
                    raise
                self._stop(error)
                return None

        return guarded

    def _stop(self, error: Exception) -> None:
        self.reason = said(error)
        lost = ""
        try:
            self.on_stop(self.reason)
        except Exception as further:
            lost = f" The rows since the last flush are lost: {said(further)}."
        warnings.warn(
            f"{self.reason}. Recording has stopped here, the training goes on; what was recorded before stays "
            f"readable.{lost} strict=True raises instead",
            RuntimeWarning, stacklevel=3,
        )


def said(error: Exception) -> str:
    """The message of an error, with its type if it is none of ours."""
    own = isinstance(error, CovergraphError)
    return (str(error) if own else f"trajectory: {type(error).__name__}: {error}").rstrip(".")


def _nothing(reason: str) -> None:
    return None
