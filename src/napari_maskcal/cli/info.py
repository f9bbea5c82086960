"""``maskcal info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from napari_maskcal.cli.options import JSON
from napari_maskcal.settings import MASK_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.restore.card import ModelCard


@click.command()
@click.argument("mask_model", default=MASK_MODEL.default)
@JSON
def info(mask_model: str, as_json: bool) -> None:
    """Say what a .maskcal bundle promises, and what it was made from."""
    from napari_maskcal.review.request import describe_content

    bundle = describe_content(mask_model)
    if as_json:
        click.echo(bundle.model_dump_json(indent=2))
        return
    click.echo(bundle.card.name)
    for line in [*_promised(bundle.certificate), *_origin(bundle.card)]:
        click.echo(line)


def _promised(certificate: Certificate | None) -> Iterator[str]:
    """Yield what a bundle promises, or that it promises nothing yet."""
    from napari_maskcal.review.certificate_words import certificate_lines

    if certificate is None:
        yield "Not calibrated: it promises nothing yet, and nothing is drawn with it."
        yield "Calibrate it with maskcal calibrate, on specimens that it was not trained on."
        return
    yield certificate.sentence
    yield certificate.limits
    for label, words in certificate_lines(certificate):
        yield f"{label}: {words}"


def _origin(card: ModelCard) -> Iterator[str]:
    """Yield on what a mask network was trained, and how."""
    by_content = (
        f"{len(card.trained_on_sha256)} images, known by their content" if card.trained_on_sha256 else "not said"
    )
    yield f"Trained on: {', '.join(card.trained_on) or by_content}"
    if card.citation:
        yield f"Origin: {card.citation}"
