"""The certificates that the tests of reports read; made once."""

from __future__ import annotations

import pytest
from certificates import USER_LOSS, branching, certificate, random_starts, sequential

from covergraph.bound.certificate import Certificate


@pytest.fixture(scope="session")
def mlp() -> Certificate:
    return certificate(sequential())


@pytest.fixture(scope="session")
def dag() -> Certificate:
    return certificate(branching())


@pytest.fixture(scope="session")
def user_loss() -> Certificate:
    return certificate(sequential(), "paper", USER_LOSS)


@pytest.fixture(scope="session")
def started() -> Certificate:
    """Its norms hold except with the probability 0.001 over random starts."""
    with random_starts():
        return certificate(sequential())


@pytest.fixture(scope="session", params=["mlp", "dag", "user_loss"])
def each(request: pytest.FixtureRequest) -> Certificate:
    """Each of the three in turn."""
    found: Certificate = request.getfixturevalue(request.param)
    return found
