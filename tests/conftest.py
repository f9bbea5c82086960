from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from napari_maskcal.models import load_restorer
from napari_maskcal.restore.engine import Effort
from small_models import Trained, calibrated_bundle, noisy_planes, random_restorer  # noqa: F401 - also for tests/widgets

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("models")
    restorer_path = random_restorer(folder)
    restorer = load_restorer(restorer_path)
    mask_path, mask_model = calibrated_bundle(folder, restorer)
    return Trained(restorer, mask_model, restorer_path, mask_path)


@pytest.fixture
def set_effort(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose the tile size and the batch a run begins with, whatever the device."""

    def choose(**effort: int) -> None:
        monkeypatch.setattr(Effort, "on", classmethod(lambda cls, device: cls(device=device, **effort)))

    return choose


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Make torch's random numbers those of every other run; numpy's are seeded where they are drawn."""
    torch.manual_seed(0)
