from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import Commands


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.harness.models import save_tiny_sd3

    return save_tiny_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def commands(tiny_sd3: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("runs"), tiny_sd3)
