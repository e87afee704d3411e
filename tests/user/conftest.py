"""The user's folder, made once: its two runs take some seconds."""

from __future__ import annotations

import pytest
from desk import Cotune, Desk, make_desk

from command_line import call


@pytest.fixture
def cotune() -> Cotune:
    return call


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return make_desk(tmp_path_factory.mktemp("user"))
