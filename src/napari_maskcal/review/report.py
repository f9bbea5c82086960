"""What a review leaves on disk: two images and the certificate."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_maskcal.read.tiff import write_tiff

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.pipeline import Review


def write_review(review: Review, folder: Path) -> None:
    """Write ``restored.tif``, ``uncertain.tif`` and ``certificate.json`` into an existing folder.

    Both images keep axes, pixel size and units of the input; the pixel size is divided by the scale factor.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written.
    """
    factors = [1] * len(review.first) + [review.scale_factor] * 2
    scale = tuple(size / factor for size, factor in zip(review.image.scale, factors, strict=True))
    like = replace(review.image, scale=scale)
    write_tiff(folder / "restored.tif", review.restored, like)
    write_tiff(folder / "uncertain.tif", review.uncertain, like)
    text = json.dumps(review.summary(), indent=2, ensure_ascii=False)
    (folder / "certificate.json").write_text(text + "\n", encoding="utf-8")
