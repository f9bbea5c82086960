"""Networks as the rest of the package sees them: a card, weights and a hash."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.kinds import GIVEN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from napari_maskcal.calibrate.certificate import Certificate

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
        Maps normalised (N, 1, Y, X) to (N, 1, factor Y, factor X), or of volumes (N, 1, Z, Y, X) to the same.
        None: another tool made the restored images, and they are given with the degraded ones.
    sha256
        Of the file it came from; ``"given"`` without a network.
    source
        That file; None where there is none.
    """

    card: ModelCard
    network: nn.Module | None
    sha256: str
    source: Path | None = field(default=None, compare=False)

    @property
    def can_be_asked(self) -> bool:
        """Whether a mask network can run it again on views of a plane."""
        return self.network is not None and not self.card.of_volumes

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Return a (Y, X) plane restored, in its own intensity units; of a restorer of volumes, a (Z, Y, X) volume."""
        from napari_maskcal.restore.whole import restore_plane, restore_volume

        return restore_volume(self, image) if self.card.of_volumes else restore_plane(self, image)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskModel:
    """A mask network and, once it is calibrated, its certificate.

    Attributes
    ----------
    card, network, sha256
        As for `Restorer`; the network maps (degraded, restored) to an uncertainty above 0. None: the map is given
        with the image.
    certificate
        The promise; None before calibration.
    """

    card: ModelCard
    network: nn.Module | None
    sha256: str
    certificate: Certificate | None = None

    def uncertainty(
        self, degraded: NDArray[Any], restored: NDArray[Any], restorer: Restorer | None = None
    ) -> NDArray[np.float32]:
        """Return the uncertainty of a restored (Y, X) plane; both planes in the same intensity units.

        The restorer that made it is needed where `card.asks_restorer`.
        """
        from napari_maskcal.restore.whole import plane_uncertainty

        return plane_uncertainty(self, degraded, restored, restorer)


def model_path(choice: str | Path, *, role: str) -> Path:
    """Return the file behind a user's choice: the bundled model of that role, or the path itself.

    A ``.maskcal`` bundle that is chosen as a restorer stands for the one that is in it, which is unpacked.

    Raises
    ------
    ValueError
        If a bundle is chosen as a restorer and holds none, or is damaged.
    """
    if str(choice) == DEMO:
        return _BUNDLED / ("restorer.safetensors" if role == "restorer" else "demo.maskcal")
    path = Path(choice).expanduser()
    if role != "restorer" or not is_bundle(path):
        return path
    from napari_maskcal.bundle import restorer_in

    return restorer_in(path)


def is_bundle(path: Path) -> bool:
    """Whether a file is a ``.maskcal`` bundle, or is called so."""
    if path.suffix.lower() == ".maskcal":
        return True
    from napari_maskcal.bundle import holds_bundle

    return path.is_file() and holds_bundle(path)


def load_restorer(path: str | Path = DEMO) -> Restorer:
    """Return the restorer in a file, of this package's format or one of many others.

    ``"demo"`` stands for the bundled one, ``"given"`` for `GIVEN_RESTORER`, the name of an entry point of the group
    ``napari_maskcal.restorers`` for what another package brings, and a ``.maskcal`` bundle for the one in it. What a
    file does not say of its network, trial runs show once; it is kept beside the file, as ``FILE.maskcal.json``, where
    it can be mended.

    Raises
    ------
    NotTrustedError
        A ValueError: the file can run code, and the user has not agreed to it;
        see `napari_maskcal.restore.loaders.trust`.
    ValueError
        If the file is missing or damaged, or no format that can be read; the message has the reason of each.
    ImportError
        If a library is missing; the message names the extra.
    """
    if str(path) == GIVEN:
        return GIVEN_RESTORER
    from napari_maskcal.restore.loaders.native import is_native, read_restorer
    from napari_maskcal.restore.loaders.python_function import find_plugin
    from napari_maskcal.restore.loaders.registry import open_restorer

    if str(path) != DEMO and not Path(path).exists() and (plugin := find_plugin(str(path))) is not None:
        return plugin
    place = model_path(path, role="restorer")
    return replace(read_restorer(place) if is_native(place) else open_restorer(place), source=place)


def load_mask_model(choice: str | Path = DEMO, restorer: Restorer | None = None) -> MaskModel:
    """Return the mask model in a ``.maskcal`` bundle, the bundled one for ``"demo"``, or one that needs no training.

    Parameters
    ----------
    choice
        A path, ``"demo"``, or the words of `napari_maskcal.mask.untrained.mask_of_words`, such as ``"residual"``.
        What these give is not calibrated yet.
    restorer
        Whose images are to be masked; words such as ``"residual"`` need it.

    Raises
    ------
    ValueError
        If the file is missing, truncated, a pickle, not a bundle, or a part's hash is wrong; or words lack something.
    """
    from napari_maskcal.mask.untrained import mask_of_words

    if isinstance(choice, str) and (made := mask_of_words(choice, restorer)) is not None:
        return made
    from napari_maskcal.bundle import read_bundle

    return read_bundle(model_path(choice, role="mask"))


def matched(restorer: Restorer, mask_model: MaskModel) -> Restorer:
    """Return `restorer` as it goes with `mask_model`.

    Images that are given have no normalisation of their own, so they take that of the mask network; a restorer
    with a network stays as it is.
    """
    if restorer.network is not None:
        return restorer
    card = restorer.card.model_copy(update={"normalisation": mask_model.card.normalisation})
    return replace(restorer, card=card)


def check_pair(restorer: Restorer, mask_model: MaskModel) -> None:
    """Raise ValueError if the two networks do not see one and the same image.

    A map that is given sees none.
    """
    if mask_model.network is not None and restorer.card.normalisation != mask_model.card.normalisation:
        raise ValueError(f"{mask_model.card.name} normalises intensities otherwise than {restorer.card.name} does")


GIVEN_RESTORER = Restorer(
    card=ModelCard(
        name="given restored image",
        role="restorer",
        network={"kind": GIVEN},
        stride_px=1,
        halo_px=0,
        min_size_px=1,
    ),
    network=None,
    sha256=GIVEN,
)
"""Stands for images that another tool restored: they come with the degraded ones, on the same grid."""
