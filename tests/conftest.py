"""Fixtures that every room of the test-suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: threads of their own would only get in each other's way
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos that lies beside a developer's checkout; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("VIDZOO_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real test videos are not on this machine (set VIDZOO_TEST_DATA to their folder)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
