"""What all tests share: the profiles of hypothesis, and which tests this machine cannot run."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

# No deadlines: a first call into torch or sympy takes seconds, whatever the example.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
