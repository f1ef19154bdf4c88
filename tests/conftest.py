"""What all tests share: the profiles of hypothesis, the seed of a search, and what this machine cannot run."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# `make test` tries the same examples each time, and nothing in it looks at a clock; `make fuzz` tries new ones.
# A first call into torch or sympy takes seconds, whatever the example, so there are no deadlines.
_SLOW = [HealthCheck.too_slow]
settings.register_profile(
    "test", deadline=None, derandomize=True, database=None, print_blob=True, suppress_health_check=_SLOW
)
settings.register_profile(
    "fuzz", deadline=None, database=None, print_blob=True, suppress_health_check=_SLOW, max_examples=400
)
settings.load_profile("test")

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; what is printed must not depend on it


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """0 in `make test`, that of the piece in `make fuzz`: for random searches that hypothesis does not drive."""
    return int(request.config.getoption("hypothesis_seed", None) or 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
