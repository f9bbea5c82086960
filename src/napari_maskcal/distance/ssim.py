"""1 - SSIM: how much of the local structure is lost."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_maskcal.distance.fields import checked_planes
from napari_maskcal.restore.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SIGMA_PX = 1.5
WINDOW_PX = 11  # what both libraries make of that sigma
_BORDER_PX = WINDOW_PX // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssim:
    """1 - SSIM between trust * restored and trust * truth: from 0 (the same) to 2.

    The images are in normalised intensities, shares of the plane's range, so the data range is 1. Gaussian window of
    11 × 11 pixels with a standard deviation of 1.5; the mean over all windows inside the image, masked ones too
    (they count 0), and over channels.

    The edge of a mask is structure that both images share, so trusting more may lower the distance: it is not
    monotone.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity"
    (2004, IEEE Transactions on Image Processing 13, 600).
    """

    name: ClassVar[str] = "ssim"
    sentence_name: ClassVar[str] = "structural dissimilarity (1 - SSIM)"
    monotone: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    in_intensity_units: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """The version of scikit-image, which computes it."""
        return f"scikit-image {version('scikit-image')}"

    def between(self, trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distances of N fields; see `Distance.between`.

        Raises
        ------
        ValueError
            If the fields are smaller than the window.
        """
        trust, restored, truth = checked_planes("SSIM", trust, restored, truth, smallest_px=WINDOW_PX)
        restored, truth = (np.broadcast_to(image, (len(trust), *image.shape[1:])) for image in (restored, truth))
        found = [_dissimilarity(*field) for field in zip(trust, restored, truth, strict=True)]
        return np.maximum(np.array(found, dtype=np.float64), 0)  # rounding may leave equal images at -1e-16

    def loss(self, trust: Tensor, restored: Tensor, truth: Tensor) -> Tensor:
        """Return the mean distance of a batch, (N, C, Y, X), with a gradient, on its device."""
        import_torchvision()
        from torchmetrics.functional.image import structural_similarity_index_measure

        images = trust * restored, trust * truth
        _, similarity = structural_similarity_index_measure(
            *images, sigma=SIGMA_PX, data_range=1.0, return_full_image=True, reduction="none"
        )
        inside = slice(_BORDER_PX, -_BORDER_PX)  # beyond it torchmetrics mirrors the image, and scikit-image stops
        loss: Tensor = 1 - similarity[..., inside, inside].mean()
        return loss


def _dissimilarity(trust: NDArray[Any], restored: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return 1 - SSIM of one field, (C, Y, X).

    In float64: variances are differences of means, and float32 loses them where a bright region is flat; it left
    2e-4 between equal images. There scikit-image's separable window takes a thirtieth of the time of torchmetrics'.
    """
    from skimage import metrics

    compare: Any = metrics.structural_similarity  # has no types
    images = (np.multiply(trust, image, dtype=np.float64) for image in (restored, truth))
    window = {"gaussian_weights": True, "sigma": SIGMA_PX, "use_sample_covariance": False}
    return 1 - float(compare(*images, data_range=1.0, channel_axis=0, **window))
