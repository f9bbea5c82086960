"""Networks as the rest of the package sees them: a card, weights and a hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.mask.network import MaskNetwork
    from napari_maskcal.restore.card import ModelCard

DEMO = "demo"
_BUNDLED = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """A pretrained image-to-image network, never changed here.

    Attributes
    ----------
    card
        What it says about itself.
    network
        Maps normalised (N, 1, Y, X) to (N, 1, factor Y, factor X).
    sha256
        Of the file it came from.
    """

    card: ModelCard
    network: nn.Module
    sha256: str

    def __call__(self, plane: NDArray[Any]) -> NDArray[np.float32]:
        """Return a (Y, X) plane restored, in its own intensity units."""
        from napari_maskcal.restore.whole import restore_plane

        return restore_plane(self, plane)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskModel:
    """A mask network and, once it is calibrated, its certificate.

    Attributes
    ----------
    card, network, sha256
        As for `Restorer`; the network maps (degraded, restored) to an uncertainty above 0.
    certificate
        The promise; None before calibration.
    """

    card: ModelCard
    network: MaskNetwork
    sha256: str
    certificate: Certificate | None = None

    def uncertainty(self, degraded: NDArray[Any], restored: NDArray[Any]) -> NDArray[np.float32]:
        """Return the uncertainty of a restored (Y, X) plane; both planes in the same intensity units."""
        from napari_maskcal.restore.whole import plane_uncertainty

        return plane_uncertainty(self, degraded, restored)


def model_path(choice: str | Path, *, role: str) -> Path:
    """Return the file behind a user's choice: the bundled model of that role, or the path itself."""
    if str(choice) == DEMO:
        return _BUNDLED / ("restorer.safetensors" if role == "restorer" else "demo.maskcal")
    return Path(choice).expanduser()


def load_restorer(path: str | Path = DEMO) -> Restorer:
    """Return the restorer in a ``.safetensors`` file, or the bundled one for ``"demo"``.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, or not a restorer of this package.
    """
    from napari_maskcal.restore.loaders.native import read_restorer

    return read_restorer(model_path(path, role="restorer"))


def load_mask_model(path: str | Path = DEMO) -> MaskModel:
    """Return the mask model in a ``.maskcal`` bundle, or the bundled one for ``"demo"``.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, not a bundle, or a part's hash is wrong.
    """
    from napari_maskcal.bundle import read_bundle

    return read_bundle(model_path(path, role="mask"))
