"""``maskcal export``."""

from __future__ import annotations

from pathlib import Path

import click

from napari_maskcal.cli.triplets import check_new_file


@click.command()
@click.argument("mask_model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .zip to write.")
@click.option("--author", "authors", multiple=True, required=True, help="Who made it; may be given several times.")
@click.option("--licence", default="", help="Identifier of SPDX, such as CC-BY-4.0; default: that of the model.")
def export(mask_model: str, out: Path, authors: tuple[str, ...], licence: str) -> None:
    """Write the mask network of MODEL.maskcal as a bioimage.io package, which other programs run.

    The promise does not go with it: only this program checks that it holds.
    """
    check_new_file(out, suffix=".zip")
    from napari_maskcal.bioimage_export import export_mask
    from napari_maskcal.models import load_mask_model

    model = load_mask_model(mask_model)
    export_mask(model, out, authors=authors, licence=licence)
    click.echo(f"{model.card.name} is written to {out}, as a network alone: its promise holds only here.")
