"""Fourth stage: from fields with a known truth to the one threshold that keeps the promise."""

from napari_maskcal.calibrate.guarantee import conformal_threshold
from napari_maskcal.calibrate.threshold import image_threshold

__all__ = ["conformal_threshold", "image_threshold"]
