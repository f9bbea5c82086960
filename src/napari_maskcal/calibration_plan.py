"""What a calibration is to measure, and all that can be wrong with it before a file is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Literal, get_args

from napari_maskcal.calibrate.certificate import Fingerprint
from napari_maskcal.calibrate.guarantee import minimal_n
from napari_maskcal.calibrate.sums import MaskKind
from napari_maskcal.models import check_pair
from napari_maskcal.restore.given import check_asked

if TYPE_CHECKING:
    from napari_maskcal.calibrate.promise import Promise
    from napari_maskcal.distance.registry import Distance
    from napari_maskcal.models import MaskModel, Restorer
    from napari_maskcal.read.parts import Triplets


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and how.

    Attributes
    ----------
    triplets
        The fields, or the planes that they are cut from.
    restorer, mask_model
        What makes the restored images and the uncertainty; either may stand for images that are given.
    distance, mask
        See `image_threshold`.
    intensity
        Unit of errors in intensity: ``"share"`` of the plane's range, or ``"raw"``.
    field_px
        Cut each plane into square fields of this many restored pixels; None: a plane is a field.
    promise
        What will be asked of the fields; None: it is not known yet, so that no walk may be cut short.
    minimal_groups
        How many groups it will take at least.
    """

    triplets: Triplets
    restorer: Restorer
    mask_model: MaskModel
    distance: Distance
    mask: MaskKind = "binary"
    intensity: Literal["share", "raw"] = "share"
    field_px: int | None = None
    promise: Promise | None = None
    minimal_groups: int = 0

    @property
    def asked(self) -> float:
        """The distance up to which a walk has to go: above its bound no distance counts for more."""
        return inf if self.promise is None else max(self.promise.tolerance, self.promise.bound or 0.0)

    @property
    def stop_above(self) -> float:
        """The distance up to which a walk does go: further, so that a larger tolerance needs no second one."""
        return 2 * self.asked

    @property
    def fingerprint(self) -> Fingerprint:
        """Of both networks."""
        return Fingerprint.of(self.restorer, self.mask_model.card, self.mask_model.sha256)

    @property
    def trained_on_sha256(self) -> set[str]:
        """Content of all images that either network was trained on."""
        return {*self.restorer.card.trained_on_sha256, *self.mask_model.card.trained_on_sha256}


def groups_needed(promise: Promise) -> int:
    """Return how many groups a promise takes at least, whatever their distances."""
    if promise.guarantee == "expected":
        return max(1, ceil((promise.bound or 0) / promise.tolerance - 1 - 1e-9))
    return minimal_n(promise.confidence, promise.guarantee, promise.delta)


def check_plan(plan: Plan) -> None:
    """Raise ValueError for all that can be known before a file is read."""
    check_choices(plan)
    _check_foreign(plan)


def check_choices(plan: Plan) -> None:
    """Do so but for the specimens."""
    if not len(plan.triplets) and not plan.triplets.faults:
        raise ValueError("there are no triplets; choose folders, a table or layers that have some")
    if plan.mask not in get_args(MaskKind):
        raise ValueError(f"there is no {plan.mask!r} mask; it is 'soft' or 'binary'")
    if plan.intensity not in ("share", "raw"):
        raise ValueError(f"intensity is {plan.intensity!r}; it is 'share' of the plane's range, or 'raw'")
    if plan.intensity == "raw" and not plan.distance.in_intensity_units:
        raise ValueError(
            f"{plan.distance.sentence_name} has no intensity unit; leave the unit at the share of the range"
        )
    _ = plan.distance.identity  # weights that cannot be had are missed now, not after the survey
    check_pair(plan.restorer, plan.mask_model)
    _check_field_size(plan)
    _check_given(plan)


def _check_field_size(plan: Plan) -> None:
    size = plan.field_px
    if size is None:
        return
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"field size is {size!r} pixels; give a whole number of at least 1")
    for triplet in plan.triplets:
        height, width = (plan.restorer.card.scale_factor * n for n in triplet.degraded.shape)
        if size > min(height, width):
            raise ValueError(
                f"{triplet.name} has {height} × {width} restored pixels, too small for a field of {size}; choose less"
            )


def _check_given(plan: Plan) -> None:
    """Refuse images beside a network that makes them, and images without the network that is asked again."""
    check_asked(plan.restorer, plan.mask_model)
    for name, what, model in (
        ("restored", "a restored image", plan.restorer),
        ("uncertainty", "an uncertainty map", plan.mask_model),
    ):
        if model.network is None:
            continue
        if given := [triplet.name for triplet in plan.triplets if name in triplet.parts()]:
            raise ValueError(
                f"{given[0]} comes with {what}, as do {len(given) - 1} more triplets, but {model.card.name} makes its "
                "own; leave out either"
            )


def _check_foreign(plan: Plan) -> None:
    """Refuse specimens of the training, also where only the folder that the files lie in has the name."""
    names = {name for triplet in plan.triplets for name in (triplet.group, *triplet.folders)}
    for card in (plan.restorer.card, plan.mask_model.card):
        if plan.triplets.grouped and card.names_no_specimens:
            raise ValueError(
                f"{card.name} was trained on images without named specimens, so nobody can tell which specimens are "
                "new to it: leave the groups out (each file is then one image), or train again with groups"
            )
        if shared := card.knows(names) or ([] if plan.triplets.grouped else card.named_in(names)):
            raise ValueError(
                f"{card.name} was trained on {', '.join(shared)}; a network errs less on specimens it has seen: leave "
                "these groups out"
            )
