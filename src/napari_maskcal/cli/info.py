"""``maskcal info``."""

from __future__ import annotations

import click

from napari_maskcal.cli.options import JSON
from napari_maskcal.settings import MASK_MODEL


@click.command()
@click.argument("mask_model", default=MASK_MODEL.default)
@JSON
def info(mask_model: str, as_json: bool) -> None:
    """Say what a .maskcal bundle promises and what it was made from."""
    from napari_maskcal.review.certificate_words import certificate_lines
    from napari_maskcal.review.request import describe_bundle

    bundle = describe_bundle(mask_model)
    if as_json:
        click.echo(bundle.model_dump_json(indent=2))
        return
    certificate = bundle.certificate
    click.echo(f"{bundle.card.name}\n{certificate.sentence}\n{certificate.limits}")
    for label, words in certificate_lines(certificate):
        click.echo(f"{label}: {words}")
    click.echo(f"Trained on: {', '.join(bundle.card.trained_on) or 'not said'}")
