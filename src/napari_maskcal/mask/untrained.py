"""Mask models that need no training: made by a function, or by a word that the user types."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.card import ModelCard
from napari_maskcal.restore.kinds import GIVEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_maskcal.mask.composed import Composed
    from napari_maskcal.models import MaskModel, Restorer

WINDOW_PX = 9
WORDS = ("residual", "constant", "augmentation", "ensemble", "interval", GIVEN)
_LONGEST_NAME = 200  # of a model card


def residual_mask(restorer: Restorer, *, window_px: int = WINDOW_PX) -> MaskModel:
    """Return |restored - degraded|, averaged over `window_px` x `window_px` pixels, as an uncalibrated mask model.

    Raises
    ------
    ValueError
        If `window_px` is no odd number.
    """
    from napari_maskcal.mask.composed import of_residual
    from napari_maskcal.mask.scores import checked_window

    window_px = checked_window(window_px)
    name = f"residual, mean over {window_px} × {window_px} pixels"
    return _made(name, of_residual(window_px=window_px), beside=restorer, halo_px=window_px // 2)


def constant_mask(restorer: Restorer) -> MaskModel:
    """Return an uncertainty of 1 everywhere as an uncalibrated mask model: fields are believed whole, or not at all."""
    from napari_maskcal.mask.composed import Composed

    return _made("the same everywhere", Composed(spec={"kind": "constant"}, weights={}), beside=restorer)


def augmentation_mask(restorer: Restorer) -> MaskModel:
    """Return the spread of `restorer` over all flips and quarter turns as an uncalibrated mask model.

    Raises
    ------
    ValueError
        If the restorer is no network.
    """
    from napari_maskcal.mask.composed import of_views

    if not restorer.can_be_asked:
        told = "is no network" if restorer.network is None else "restores whole volumes and is none"
        raise ValueError(f"{restorer.card.name} {told} that could be asked again; choose a file of one for planes")
    return _made(f"spread of {restorer.card.name} over flips and turns", of_views(mirrors=True), beside=restorer)


def ensemble_mask(restorers: Sequence[Restorer], *, beside: Restorer | None = None) -> MaskModel:
    """Return the spread of several restorers as an uncalibrated mask model.

    Parameters
    ----------
    restorers
        At least two, all different.
    beside
        The restorer whose images are to be masked, whether it is one of them or not.

    Raises
    ------
    ValueError
        If there are fewer, two are the same, or they normalise intensities differently.
    """
    if len(restorers) < 2:
        raise ValueError(f"an ensemble has at least 2 restorers, got {len(restorers)}")
    from napari_maskcal.mask.composed import of_spread

    _check_members(restorers)
    name = "spread of " + ", ".join(member.card.name for member in restorers)
    return _made(name, of_spread(restorers), restorers, beside=beside)


def interval_mask(lower: Restorer, upper: Restorer, *, beside: Restorer | None = None) -> MaskModel:
    """Return the width between two networks that give quantiles as an uncalibrated mask model.

    Parameters
    ----------
    lower, upper
        Such as networks for the quantiles 0.05 and 0.95.
    beside
        The restorer whose images are to be masked.

    Raises
    ------
    ValueError
        If both are the same, or they normalise intensities differently.
    """
    from napari_maskcal.mask.composed import of_interval

    _check_members((lower, upper))
    name = f"interval from {lower.card.name} to {upper.card.name}"
    return _made(name, of_interval(lower, upper), (lower, upper), beside=beside)


def given_mask(name: str = "given uncertainty") -> MaskModel:
    """Return the mask model that stands for maps that come with the images; `name` says what made them.

    Its hash is that of its card alone: that a map was made in the same way as those of the calibration, nobody
    but the user can know.
    """
    from napari_maskcal.mask.composed import Composed

    return _made(name, Composed(spec={"kind": GIVEN}, weights={}))


def mask_of_words(choice: str, restorer: Restorer | None = None) -> MaskModel | None:
    """Return the mask model that a user's words name; None if they are no such words but a file's path.

    Parameters
    ----------
    choice
        ``residual``, ``residual:5``, ``augmentation``, ``ensemble:FILE,FILE,...``, ``interval:LOWER,UPPER``,
        ``given`` or ``given:NAME``.
    restorer
        Whose images are to be masked; needed by the first three.

    Raises
    ------
    ValueError
        If something is missing after the word, or a file is no restorer.
    """
    if not is_words(choice):
        return None
    word, _, rest = choice.partition(":")
    makers: dict[str, Callable[[], MaskModel]] = {
        "residual": lambda: residual_mask(_needed(restorer, choice), window_px=_window(rest, choice)),
        "constant": lambda: constant_mask(_needed(restorer, choice)),
        "augmentation": lambda: augmentation_mask(_needed(restorer, choice)),
        "ensemble": lambda: ensemble_mask(_files(rest), beside=restorer),
        "interval": lambda: interval_mask(*_two(_files(rest), choice), beside=restorer),
        GIVEN: lambda: given_mask(rest) if rest else given_mask(),
    }
    if rest and word in ("augmentation", "constant"):
        raise ValueError(f"mask model {choice!r}: {word} takes nothing after the word")
    return makers[word]()


def is_words(choice: str) -> bool:
    """Whether `choice` names a mask model that needs no file of its own."""
    return choice.partition(":")[0] in WORDS


def _made(
    name: str,
    part: Composed,
    members: Sequence[Restorer] = (),
    *,
    beside: Restorer | None = None,
    halo_px: int = 0,
) -> MaskModel:
    """Return the mask model with a card that takes all its members into account."""
    from napari_maskcal.bundle import mask_sha256, mask_weights
    from napari_maskcal.models import MaskModel
    from napari_maskcal.restore.loaders.native import build_network

    card = _card(name, part.spec, members, beside=beside, halo_px=halo_px)
    network = build_network(card, part.weights, source=card.name)
    return MaskModel(card=card, network=network, sha256=mask_sha256(card, mask_weights(network)))


def _card(
    name: str, spec: dict[str, Any], members: Sequence[Restorer], *, beside: Restorer | None, halo_px: int
) -> ModelCard:
    cards = [member.card for member in members]
    around = [*cards, *([beside.card] if beside is not None else [])]
    factor = beside.card.scale_factor if beside is not None else 1
    stride = lcm(*(card.stride_px for card in cards), *([factor * beside.card.stride_px] if beside is not None else []))
    reaches = [halo_px, *(card.halo_px for card in cards)]
    bounded = [reach for reach in reaches if reach is not None]
    return ModelCard(
        name=name[:_LONGEST_NAME],
        role="mask",
        network=spec,
        # The restorer's stride too: its planes are padded to it, so the uncertainty belongs to the padded plane.
        stride_px=stride,
        halo_px=-(-max(bounded) // stride) * stride if len(bounded) == len(reaches) else None,
        min_size_px=max((card.min_size_px for card in cards), default=1),
        normalisation=around[0].normalisation if around else ModelCard.model_fields["normalisation"].default,
        trained_on=tuple(sorted({specimen for card in cards for specimen in card.trained_on})),
        trained_on_sha256=tuple(sorted({image for card in cards for image in card.trained_on_sha256})),
    )


def _check_members(members: Sequence[Restorer]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        if member.card.of_volumes:
            raise ValueError(f"{member.card.name} restores whole volumes; only restorers of planes can be compared")
        if member.sha256 in seen:
            raise ValueError(f"{member.card.name} and {seen[member.sha256]} are the same network; leave one out")
        if member.card.normalisation != members[0].card.normalisation:
            raise ValueError(
                f"{member.card.name} normalises intensities otherwise than {members[0].card.name} does, so their "
                "outputs cannot be compared"
            )
        seen[member.sha256] = member.card.name


def _needed(restorer: Restorer | None, choice: str) -> Restorer:
    if restorer is None:
        raise ValueError(f"mask model {choice!r} is made from the restorer; give that too")
    return restorer


def _window(text: str, choice: str) -> int:
    if not text:
        return WINDOW_PX
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"mask model {choice!r}: after residual: comes an odd number of pixels, such as residual:5")
    return int(text)


def _files(text: str) -> list[Restorer]:
    from napari_maskcal.models import load_restorer

    return [load_restorer(name.strip()) for name in text.split(",") if name.strip()]


def _two(restorers: list[Restorer], choice: str) -> tuple[Restorer, Restorer]:
    if len(restorers) != 2:
        raise ValueError(
            f"mask model {choice!r}: after interval: come two files, lower and upper, with a comma between"
        )
    return restorers[0], restorers[1]
