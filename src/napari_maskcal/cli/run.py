"""``maskcal run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_maskcal.cli.options import JSON, options, restorer_for
from napari_maskcal.cli.progress import Progress
from napari_maskcal.settings import (
    AXES,
    CHANNEL,
    CONFIDENCE,
    DEVICE,
    MASK_MODEL,
    RESTORED,
    RESTORER,
    TOLERANCE,
    UNCERTAINTY,
)

if TYPE_CHECKING:
    from napari_maskcal.pipeline import Review
    from napari_maskcal.read.image import Image
    from napari_maskcal.restore.given import Given
    from napari_maskcal.review.request import Request


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the results.")
@options(AXES, CHANNEL, RESTORER, RESTORED, MASK_MODEL, UNCERTAINTY, TOLERANCE, CONFIDENCE, DEVICE)
@JSON
def run(
    image: Path,
    out: Path,
    axes: str | None,
    channel: int | None,
    restorer: str,
    restored: str | None,
    mask_model: str,
    uncertainty: str | None,
    tolerance: float | None,
    confidence: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Restore IMAGE (TIFF or OME-Zarr) and mark what cannot be believed."""
    from napari_maskcal.read.atomic import new_folder
    from napari_maskcal.read.files import read_image
    from napari_maskcal.restore.given import Given
    from napari_maskcal.review.report import write_review

    stack = read_image(image, axes=axes)
    given = Given(
        restored=read_image(restored, axes=axes) if restored else None,
        uncertainty=read_image(uncertainty, axes=axes) if uncertainty else None,
    )
    restorer = restorer_for(restorer, mask_model)
    request = _resolve(stack, channel, restorer, mask_model, tolerance, confidence, given)
    with new_folder(out) as folder:
        from napari_maskcal.models import load_mask_model, load_restorer
        from napari_maskcal.pipeline import run as run_pipeline
        from napari_maskcal.restore.allocator import keep_freed_memory

        keep_freed_memory()
        with Progress() as progress:
            review = run_pipeline(
                stack,
                load_restorer(request.restorer),
                load_mask_model(request.mask_model),
                request.certificate,
                restored=given.restored,
                uncertainty=given.uncertainty,
                channel=channel,
                device=device,
                on_event=progress,
            )
        write_review(review, folder)
    tell(review, out, as_json=as_json)


def _resolve(
    stack: Image,
    channel: int | None,
    restorer: str,
    mask_model: str,
    tolerance: float | None,
    confidence: float | None,
    given: Given,
) -> Request:
    """Return what to run; ValueError with the first reason why not."""
    from napari_maskcal.models import model_path
    from napari_maskcal.restore.kinds import GIVEN
    from napari_maskcal.review.request import Choices, Source, describe_bundle, resolve, tried_facts

    def described(image: Image | None, key: str) -> Source | None:
        if image is None:
            return None
        dtype = str(image.data.dtype)
        return Source(
            key=key, name=image.name, kind="image", rgb=False, shape=image.shape, dtype=dtype,
            pixel_size=image.pixel_size,
        )  # fmt: skip

    pinned = describe_bundle(mask_model).certificate
    if restorer != GIVEN:
        tried_facts(model_path(restorer, role="restorer"))
    found = resolve(
        Choices(
            source=described(stack, "input"),
            restored=described(given.restored, "restored"),
            uncertainty=described(given.uncertainty, "uncertainty"),
            axes=stack.axes,
            channel=channel,
            region="all planes",
            restorer=restorer,
            mask_model=mask_model,
            tolerance=pinned.tolerance if tolerance is None else tolerance,
            confidence=pinned.confidence if confidence is None else confidence,
        )
    )
    if isinstance(found, list):
        raise ValueError(found[0].message)
    return found


def tell(review: Review, out: Path, *, as_json: bool) -> None:
    """Print what was promised, or only explored, and how much is marked."""
    if as_json:
        click.echo(json.dumps(review.summary(), indent=2, ensure_ascii=False))
        return
    from napari_maskcal.review.certificate_words import number_of, promise_words

    click.echo(promise_words(review.certificate))
    marked = f"{100 * review.masked_share:.1f} % of {number_of(review.planes, 'planes')}"
    click.echo(f"Marked uncertain: {marked}. Written to {out}")
