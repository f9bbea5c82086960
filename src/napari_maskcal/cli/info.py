"""``maskcal info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal.settings import MASK_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.restore.card import ModelCard


@click.command()
@click.argument("file", default=MASK_MODEL.default)
@click.option(
    "--trust",
    "agreed",
    is_flag=True,
    help="Agree to a file or a package that can run code, once for its content or version.",
)
@click.option("--verify", is_flag=True, help="Load the network, compare all hashes, and run it on a small image.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as JSON instead of sentences.")
def info(file: str, agreed: bool, verify: bool, as_json: bool) -> None:
    """Say what a .maskcal bundle promises, or how a restorer is used; a restorer that is new is tried first."""
    from napari_maskcal.models import DEMO, is_bundle, model_path

    if file == DEMO or is_bundle(Path(file).expanduser()):
        found, lines = _bundle(file, model_path(file, role="mask"), agreed=agreed, verify=verify)
    else:
        found, lines = _restorer(Path(file).expanduser(), agreed=agreed, verify=verify)
    for line in [json.dumps(found, indent=2)] if as_json else lines:
        click.echo(line)


def _bundle(choice: str, path: Path, *, agreed: bool, verify: bool) -> tuple[dict[str, Any], list[str]]:
    from napari_maskcal.models import model_path
    from napari_maskcal.restore.loaders.base import NotTrustedError
    from napari_maskcal.review.request import describe_content

    content = describe_content(choice)
    lines = [content.card.name, *_promised(content.certificate), *_origin(content.card)]
    if content.restorer is not None:
        inside = model_path(choice, role="restorer")
        lines.append(f"With its restorer, {content.restorer.file_name}:")
        try:
            lines += _restorer(inside, agreed=agreed, verify=verify)[1]
        except NotTrustedError as error:  # what is promised can be read all the same
            lines.append(str(error))
    if verify:
        from napari_maskcal.bundle import read_bundle, restorer_bytes

        read_bundle(path)
        if content.restorer is not None:
            restorer_bytes(path)  # not what was unpacked of it earlier
        lines.append(
            "Verified: every part has the hash it was saved with, and the certificate is that of this network."
        )
    return json.loads(content.model_dump_json()), lines


def _restorer(path: Path, *, agreed: bool, verify: bool) -> tuple[dict[str, Any], list[str]]:
    from napari_maskcal.review.request import tried_facts
    from napari_maskcal.review.restorer_words import restorer_lines

    if agreed:
        from napari_maskcal.restore.loaders.registry import agree

        agree(path)
    card, sha256, file_format = tried_facts(path)
    use = (f"{label}: {words}" for label, words in restorer_lines(card))
    lines = [card.name, f"Format: {file_format}", *use, *_origin(card), f"Fingerprint: {sha256}"]
    if verify:
        from napari_maskcal.restore.loaders.registry import verified

        lines.append(f"Verified: {verified(path)}")
    return {"format": file_format, "sha256": sha256, "card": json.loads(card.model_dump_json())}, lines


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
    """Yield on what a network was trained, and how."""
    by_content = (
        f"{len(card.trained_on_sha256)} images, known by their content" if card.trained_on_sha256 else "not said"
    )
    yield f"Trained on: {', '.join(card.trained_on) or by_content}"
    if card.licence:
        yield f"Licence: {card.licence}"
    if card.citation:
        yield f"Origin: {card.citation}"
