"""Whether the promise still stands for what is chosen and for what is drawn; if not, what differs, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_maskcal.calibrate.certificate import PARTS, Certificate, Fingerprint
from napari_maskcal.models import DEMO, Restorer
from napari_maskcal.restore.card import Normalisation
from napari_maskcal.restore.kinds import GIVEN
from napari_maskcal.review.request import Choices, describe_bundle, is_calibrated_file, promise_fault, restorer_card
from napari_maskcal.review.restorer_words import intensity_words, restorer_lines

if TYPE_CHECKING:
    from napari_maskcal.restore.card import ModelCard

_SHOWN_OF_SHA256 = 8
_CHOSEN = {
    "source": "image", "axes": "axes", "channel": "channel", "region": "region", "restorer": "restorer",
    "mask_model": "mask model", "tolerance": "tolerance", "confidence": "confidence", "restored": "restored image",
    "uncertainty": "uncertainty map",
}  # fmt: skip

_MOVABLE = {"tolerance", "confidence", "threshold", "leave_one_out", "masked", "exploration", "curves"}
"""What in a certificate follows the user's tolerance and confidence, or the rest of it."""


def withdrawn(choices: Choices) -> str:
    """Say why the models that are chosen promise nothing; empty where they are what was calibrated."""
    try:
        bundle = describe_bundle(choices.mask_model)
    except (ValueError, OSError, MemoryError) as error:
        return f"No promise: {error}"
    card, sha256, _ = restorer_card(choices.restorer)
    if card is None:
        return "No promise: the restorer cannot be used; why is said beside it."
    differences = _differences(choices.restorer, card, sha256, bundle.card, bundle.certificate)
    if not differences:
        fault = promise_fault(bundle.certificate, card, bundle.card)
        return f"No promise: {fault}" if fault else ""
    return _listed(
        f"No promise: {bundle.card.name} was calibrated with something else. Choose that, or calibrate again.",
        differences,
    )


def outdated(then: Choices, now: Choices, *, drawn: Certificate, pinned: Certificate | None, edited: bool) -> str:
    """Say why what is drawn does not answer the choices any more.

    Parameters
    ----------
    then, now
        What it was drawn for, and what is chosen.
    drawn, pinned
        The promise of what is drawn, and the one in the mask model's file as it is now.
    edited
        Whether the image's pixels were replaced.
    """
    changes = ["image: its pixels were replaced"] if edited else []
    if pinned is not None and then.mask_model == now.mask_model:
        changes += _renewed(now.mask_model, drawn, pinned)
    for name, label in _CHOSEN.items():
        if getattr(then, name) != getattr(now, name):
            before, after = (_shown(name, getattr(choices, name)) for choices in (then, now))
            changes.append(_then_now(label, before, after) if before != after else f"{label}: another of that name")
    return _listed("Outdated: what is drawn was made for something else. Press Run.", changes)


def _differences(choice: str, card: ModelCard, sha256: str, mask: ModelCard, certificate: Certificate) -> list[str]:
    """Return all in which a restorer and a mask network are not those of a certificate."""
    then = certificate.fingerprint
    if choice == GIVEN:  # what is given takes the range of the mask network
        card = card.model_copy(update={"normalisation": mask.normalisation})
    now = Fingerprint.of(Restorer(card=card, network=None, sha256=sha256), mask, then.mask_sha256)
    found = []
    if now.restorer_sha256 != then.restorer_sha256:
        found += _other_restorer(choice, card, sha256, certificate)
    for name, label in PARTS.items():
        if name == "restorer_sha256":
            continue  # of which more is said above
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            found.append(_then_now(label, _value(before), _value(after)))
    return found


def _other_restorer(choice: str, card: ModelCard, sha256: str, certificate: Certificate) -> list[str]:
    """Say how a restorer is another one than the calibrated: another file, or the same one used otherwise."""
    known, then = certificate.restorer, certificate.fingerprint.restorer_sha256
    uses = [] if known is None or GIVEN in (sha256, then) else _other_uses(known, card)
    if known is not None and uses and is_calibrated_file(choice, known, then):
        return [f"restorer: the file of {card.name} is the same, but it is used otherwise", *uses]
    label = "restorer's file" if known is not None and known.name == card.name else "restorer"
    return [_then_now(label, _named(known.name if known else "", then), _named(card.name, sha256)), *uses]


def _other_uses(then: ModelCard, now: ModelCard) -> list[str]:
    """Return in what two restorers are used otherwise."""
    before, after = dict(restorer_lines(then)), dict(restorer_lines(now))
    pairs = {label: [lines.get(label, "not said") for lines in (before, after)] for label in before | after}
    return [_then_now(label, *pair) for label, pair in pairs.items() if pair[0] != pair[1]]


def _renewed(mask_model: str, then: Certificate, now: Certificate) -> list[str]:
    """Say what is new in a mask model's file."""
    if now.fingerprint.mask_sha256 != then.fingerprint.mask_sha256:
        hashes = (_short(one.fingerprint.mask_sha256) for one in (then, now))
        return [_then_now(f"mask model: {_name(mask_model)} was replaced, its network", *hashes)]
    if any(getattr(now, name) != getattr(then, name) for name in Certificate.model_fields if name not in _MOVABLE):
        return [f"mask model: {_name(mask_model)} was replaced, its network is the same, its certificate another"]
    return []


def _listed(lead: str, differences: list[str]) -> str:
    """Return a lead with one line below it for each difference."""
    return "\n".join([lead, *(f"• {one[0].upper()}{one[1:]}." for one in differences)])


def _then_now(what: str, before: str, after: str) -> str:
    return f"{what}: {before}. Now: {after}"


def _named(name: str, sha256: str) -> str:
    """Return a restorer by its name and hash."""
    if sha256 == GIVEN:
        return "images that another tool restored"
    return f"{name} ({_short(sha256)})" if name else f"one with the hash {_short(sha256)}"


def _value(part: Any) -> str:
    return intensity_words(part) if isinstance(part, Normalisation) else str(part)


def _shown(name: str, choice: Any) -> str:
    """Return a choice as the form shows it."""
    if name in ("source", "restored", "uncertainty"):
        return str(choice.name) if choice is not None else "none"
    if name in ("restorer", "mask_model"):
        return _name(choice)
    return f"{choice:g}" if isinstance(choice, float) else str(choice)


def _name(model: str) -> str:
    return {DEMO: "the bundled demo", GIVEN: "another tool's"}.get(model, Path(model).name)


def _short(sha256: str) -> str:
    return f"{sha256[:_SHOWN_OF_SHA256]}…"
