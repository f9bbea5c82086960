"""From what a user chose to what will be run, or to the reasons why it can't: no GUI, no pixels, no torch."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from napari_maskcal.bundle import Content, Description, calibrated, known_content
from napari_maskcal.mask.untrained import is_words
from napari_maskcal.models import GIVEN_RESTORER, load_restorer, model_path
from napari_maskcal.read.image import check_axes, check_dtype
from napari_maskcal.restore.given import grid_fault
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.restore.loaders.base import NotDescribedError, known_sha256
from napari_maskcal.restore.loaders.native import is_native, read_card
from napari_maskcal.restore.loaders.python_function import announced_as, find_plugin
from napari_maskcal.restore.loaders.registry import card_of, loader_of, restorer_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from napari_maskcal.calibrate.certificate import Certificate
    from napari_maskcal.read.pixel_size import PixelSize
    from napari_maskcal.restore.card import ModelCard

Region = Literal["current plane", "all planes"]
Part = Literal["restored", "uncertainty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What can be known of an input without reading its pixels.

    Attributes
    ----------
    key
        Tells one input from another.
    kind
        The layer type's name, ``"image"`` for one that can be restored.
    """

    key: str
    name: str = field(compare=False)
    kind: str
    rgb: bool
    shape: tuple[int, ...]
    dtype: str
    pixel_size: PixelSize | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """All that the user set, right or wrong.

    `restored` and `uncertainty` are what another tool made, where no network makes it.
    """

    source: Source | None
    axes: str
    channel: int | None
    region: Region
    restorer: str
    mask_model: str
    tolerance: float
    confidence: float
    restored: Source | None = None
    uncertainty: Source | None = None

    def differs_in_promise_only(self, other: Choices) -> bool:
        """Whether the same pixels with the same networks are asked for, at another tolerance or confidence."""
        same = ("source", "axes", "channel", "region", "restorer", "mask_model", "restored", "uncertainty")
        return self != other and all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a choice cannot be run; `field` is the name of the attribute of `Choices` that is wrong."""

    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Choices that can be run, with the promise that will be drawn."""

    choices: Choices
    axes: str
    restorer: Path
    mask_model: Path
    certificate: Certificate


def resolve(choices: Choices) -> Request | list[Problem]:
    """Return what to run, or all that stands in its way."""
    problems: list[Problem] = []

    def check(name: str, message: str | None) -> None:
        if message:
            problems.append(Problem(field=name, message=message))

    axes = ""
    if not (fault := _source_fault(choices.source)) and choices.source is not None:
        axes, fault_of_axes = _axes(choices, choices.source)
        check("axes", fault_of_axes)
        if axes:
            check("channel", _channel_fault(choices, axes, choices.source.shape))
    check("source", fault)
    card, restorer_hash, fault = restorer_card(choices.restorer)
    check("restorer", fault)
    bundle, fault = _bundle(choices.mask_model)
    check("mask_model", fault)
    if card and bundle and not _is_given(card) and card.normalisation != bundle.card.normalisation:
        check("mask_model", f"{bundle.card.name} normalises intensities otherwise than {card.name} does")
    if card and bundle and axes and choices.source:
        check("source", _size_fault(choices.source, axes, card, bundle.certificate))
    if card:
        check("restored", _given_fault("restored", card, choices, card))
    if bundle:
        check("uncertainty", _given_fault("uncertainty", bundle.card, choices, card))
    certificate = None
    if bundle:
        promise = bundle.certificate
        if card and promise.fingerprint.restorer_sha256 != restorer_hash:
            check("mask_model", f"{bundle.card.name} was calibrated for another restorer than {card.name}, so its "
                  "promise would not hold; choose the pair that belongs together")  # fmt: skip
        check("mask_model", promise_fault(promise, card, bundle.card))
        certificate, faults = _promise(promise, choices)
        problems.extend(faults)
    if problems or certificate is None:
        return problems
    return Request(
        choices=choices,
        axes=axes,
        restorer=model_path(choices.restorer, role="restorer"),
        mask_model=model_path(choices.mask_model, role="mask"),
        certificate=certificate,
    )


def parts_wanted(restorer: str, mask_model: str) -> tuple[Part, ...]:
    """Return what has to be given with the image, for the models chosen; nothing for models that can't be read."""
    (card, _, _), (bundle, _) = restorer_card(restorer), _bundle(mask_model)
    wanted: list[Part] = []
    if card and _is_given(card):
        wanted.append("restored")
    if bundle and _is_given(bundle.card):
        wanted.append("uncertainty")
    return tuple(wanted)


def describe_bundle(choice: str) -> Description:
    """Return card and certificate of a mask model; the file is read again only when it has changed.

    Raises
    ------
    ValueError
        See `napari_maskcal.bundle.read_description`.
    """
    return calibrated(describe_content(choice), model_path(choice, role="mask"))


def describe_content(choice: str) -> Content:
    """Return the card of a mask model, and its certificate if it has one; the file is read as for `describe_bundle`.

    Raises
    ------
    ValueError
        See `read_content`.
    """
    if is_words(choice):
        raise ValueError(
            f"mask model {choice!r} has no certificate yet; calibrate it, and choose the .maskcal file that this writes"
        )
    path = model_path(choice, role="mask")
    return known_content(path)


def brings_restorer(mask_model: str) -> bool:
    """Whether a mask model is a bundle with its restorer in it, which is then to be chosen as the restorer too."""
    try:
        return describe_content(mask_model).restorer is not None
    except (ValueError, OSError, MemoryError):  # said where the mask model is needed
        return False


def in_own_words(text: str, *, grouped: bool) -> str:
    """Return a message with "groups" called what they are: specimens if the user named them, else images."""
    word = "specimen" if grouped else "image"
    return re.sub(r"\bgroup(s?)\b", rf"{word}\1", text.replace("fields or specimens", "groups"))


def likely_devices() -> list[str]:
    """Return the devices worth offering, found without loading torch; another may be typed."""
    found = ["auto", "cpu"]
    if sys.platform == "darwin":
        found.append("mps")
    if shutil.which("nvidia-smi"):
        found.append("cuda:0")
    return found


def device_fault(name: str) -> str | None:
    """Say what is wrong with a device's name; whether the device is there shows when the run starts."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        return None
    return f"{name!r} is no device; take auto, cpu, cuda:0 (or another number) or mps"


def _source_fault(source: Source | None) -> str | None:
    if source is None:
        return "there is no image; open one, or take File > Open Sample > Mask Calibration"
    if source.kind != "image":
        return f"{source.name} is a {source.kind.capitalize()} layer; select the Image layer that should be restored"
    if source.rgb:
        return f"{source.name} is an RGB image and the network takes one channel; right-click it and Split RGB"
    if len(source.shape) < 2:
        return f"{source.name} has shape {source.shape}; an image has at least Y and X"
    try:
        check_dtype(source.dtype, name=source.name)
    except ValueError as error:
        return str(error)
    return None


def _axes(choices: Choices, source: Source) -> tuple[str, str | None]:
    try:
        return check_axes(choices.axes, source.shape, name=source.name), None
    except ValueError as error:
        return "", str(error)


def _channel_fault(choices: Choices, axes: str, shape: tuple[int, ...]) -> str | None:
    if "C" not in axes:
        return None
    count = shape[axes.index("C")]
    if choices.channel is None:
        return f"the image has {count} channels; choose one, counted from 0: the network takes one"
    if not 0 <= choices.channel < count:
        return f"the image has channels 0 to {count - 1}; channel {choices.channel} is not one of them"
    return None


def promise_fault(certificate: Certificate, restorer: ModelCard | None, mask: ModelCard) -> str | None:
    """Say why a certificate promises nothing, whatever the image: of two networks that it was made for."""
    try:
        certificate.check_drawn()
        for card in filter(None, (restorer, mask)):
            certificate.check_foreign(card)
    except ValueError as error:
        return str(error)
    return None


def _size_fault(source: Source, axes: str, card: ModelCard, certificate: Certificate) -> str | None:
    height, width = source.shape[-2:]
    if min(height, width) < card.min_size_px:
        return f"{source.name} has planes of {height} × {width} pixels; {card.name} needs at least {card.min_size_px}"
    try:
        certificate.check_plane((card.scale_factor * height, card.scale_factor * width), name=source.name)
        certificate.check_stack(source.shape[axes.index("Z")] if "Z" in axes else 1, name=source.name)
        certificate.check_pixel_size(source.pixel_size, name=source.name)
    except ValueError as error:
        return str(error)
    return None


def _is_given(card: ModelCard) -> bool:
    return card.network.get("kind") == GIVEN


def _given_fault(part: Part, model: ModelCard, choices: Choices, restorer: ModelCard | None) -> str | None:
    """Say what is wrong with a restored image or an uncertainty map, if one is needed or given."""
    found: Source | None = getattr(choices, part)
    what = {"restored": "restored image", "uncertainty": "uncertainty map"}[part]
    if not _is_given(model):
        return f"{found.name} was given, but {model.name} makes its own {what}; leave out either" if found else None
    if found is None:
        return f"the {what} comes from another tool here; choose its layer, or its file with --{part}"
    if fault := _source_fault(found):
        return fault
    if choices.source is None or restorer is None:
        return None
    if found == choices.source:
        return f"{found.name} is the input itself; choose its {what}"
    fault = grid_fault(choices.source.shape, found.shape, part=part, factor=restorer.scale_factor)
    return f"{found.name} {fault}" if fault else None


def restorer_card(choice: str) -> tuple[ModelCard | None, str, str | None]:
    """Return a restorer's card, its hash, and why the file cannot be read."""
    if choice == GIVEN:
        return GIVEN_RESTORER.card, GIVEN_RESTORER.sha256, None
    try:
        card, digest = _restorer(model_path(choice, role="restorer"))
    except (ValueError, OSError, MemoryError, ImportError) as error:
        return None, "", str(error)
    return card, digest, None


def is_calibrated_file(choice: str, then: ModelCard, sha256: str) -> bool:
    """Whether a restorer's file is the calibrated one, whatever is said of its use now.

    Parameters
    ----------
    then, sha256
        What was said of it when it was calibrated, and the hash of both together.
    """
    path = model_path(choice, role="restorer")
    return path.exists() and restorer_sha256(then, known_sha256(path)) == sha256


def restorer_facts(path: Path) -> tuple[ModelCard, str, str]:
    """Return a restorer's card, its hash and the name of its format.

    Raises
    ------
    ValueError
        If the file cannot be read, or nobody has described it yet.
    """
    if not path.exists() and (announced := announced_as(str(path))) is not None:
        file_format = f"restorer of {announced[1]}"
    else:
        file_format = "napari-maskcal" if is_native(path) else loader_of(path).name
    return *_restorer(path), file_format


def tried_facts(path: Path) -> tuple[ModelCard, str, str]:
    """Return the same; a file that nobody has described yet is tried first."""
    try:
        return restorer_facts(path)
    except NotDescribedError:
        load_restorer(path)
    return restorer_facts(path)


def _bundle(choice: str) -> tuple[Description | None, str | None]:
    try:
        return describe_bundle(choice), None
    except (ValueError, OSError, MemoryError) as error:
        return None, str(error)


def _promise(pinned: Certificate, choices: Choices) -> tuple[Certificate | None, list[Problem]]:
    """Return the certificate for the tolerance and confidence chosen, one check after the other."""
    problems = []
    try:
        pinned.at(tolerance=choices.tolerance)
    except ValueError as error:
        problems.append(Problem(field="tolerance", message=str(error)))
    try:
        pinned.at(confidence=choices.confidence)
    except ValueError as error:
        problems.append(Problem(field="confidence", message=str(error)))
    if problems:
        return None, problems
    return pinned.at(tolerance=choices.tolerance, confidence=choices.confidence), []


def _restorer(path: Path) -> tuple[ModelCard, str]:
    """Return card and hash; a file is read again only when it has changed, what is kept beside it each time."""
    if is_native(path):
        return read_card(path), known_sha256(path)
    if not path.exists() and (plugin := find_plugin(str(path))) is not None:
        return plugin.card, plugin.sha256
    return card_of(path, known_sha256)
