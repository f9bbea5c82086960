"""The frozen result of a calibration: the threshold, the promise in words, and all it depends on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, model_validator

from napari_maskcal import __version__
from napari_maskcal.calibrate.curves import AnyCurves, Curves, GridCurves, rounded_down
from napari_maskcal.calibrate.guarantee import Grouping, Guarantee
from napari_maskcal.calibrate.promise import Promise
from napari_maskcal.calibrate.sums import MaskKind
from napari_maskcal.calibrate.threshold import is_exact
from napari_maskcal.calibrate.words import limits_sentence, promise_sentence
from napari_maskcal.distance.registry import built_in, parse_distance
from napari_maskcal.read.pixel_size import PixelSize
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = {
    "restorer_sha256": "the restorer",
    "mask_sha256": "the mask network",
    "normalisation": "the range that intensities are shares of",
    "dtype": "the number type",
    "tiles": "how planes are cut into tiles",
    "context_px": "the window of the error budget",
}
"""Of a fingerprint, in words."""
Intensity = Literal["share", "raw", "none"]


class Fingerprint(BaseModel):
    """All that makes the uncertainty. At another fingerprint the promise is void."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    restorer_sha256: str
    mask_sha256: str
    normalisation: Normalisation
    dtype: str = "float32"
    tiles: Literal["exact", "never cut"] = "exact"
    context_px: int = 0

    @classmethod
    def of(cls, restorer: Any, mask_card: ModelCard, mask_sha256: str) -> Fingerprint:
        """Return the fingerprint of a restorer together with a mask network."""
        bounded = restorer.card.halo_px is not None and mask_card.halo_px is not None
        return cls(
            restorer_sha256=restorer.sha256,
            mask_sha256=mask_sha256,
            normalisation=restorer.card.normalisation,
            dtype=mask_card.dtype,
            tiles="exact" if bounded else "never cut",
            context_px=mask_card.context_px,
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """Return what differs, in words."""
        return [words for name, words in PARTS.items() if getattr(self, name) != getattr(other, name)]


class FieldRecord(BaseModel):
    """What calibration found for one field; `sha256` is that of its content, where it was read from files."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    group: str
    distance: float
    threshold: float
    masked_share: float
    sha256: str = ""


class Coverage(BaseModel):
    """Leave-one-out coverage: each group (field) against the threshold of all the others."""

    model_config = ConfigDict(frozen=True)

    kept: int
    of: int
    low: float
    high: float


class MaskedShare(BaseModel):
    """How much of the calibration fields the threshold marks.

    Attributes
    ----------
    mean, quartiles
        Of the share of marked pixels, over fields.
    untouched, whole
        Shares of fields with nothing marked, and with everything marked.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    quartiles: tuple[float, float, float]
    untouched: float
    whole: float

    @classmethod
    def of(cls, shares: Sequence[float]) -> MaskedShare:
        """Return the distribution of the shares of all fields."""
        values = np.asarray(shares, dtype=np.float64)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(
            mean=float(values.mean()), quartiles=(low, middle, high),
            untouched=float(np.mean(values == 0)), whole=float(np.mean(values == 1)),
        )  # fmt: skip


class Pin(BaseModel):
    """The numbers of a promise that were fixed on a day."""

    model_config = ConfigDict(frozen=True)

    tolerance: float
    confidence: float
    date: str
    guarantee: Guarantee = "marginal"
    delta: float | None = None
    bound: float | None = None


class Certificate(BaseModel):
    """The promise, its threshold, and what both depend on.

    Attributes
    ----------
    distance, distance_identity, distance_words
        Its name, what else decides its value (the hash of its weights), and what the sentence calls it.
    tolerance, confidence, guarantee, delta, bound, grouping, seed, mask
        What was asked for; see `Promise`.
    intensity
        Unit of the tolerance: ``"share"`` of the plane's intensity range, ``"raw"`` intensities, or ``"none"``.
    threshold
        Uncertainty above this is marked.
    n_fields, groups, grouped, field_shape
        Calibration fields, how many each group has, whether the user named the groups (else each image is one),
        and the (Y, X) size the promise is about.
    plane_shape
        (Y, X) of the planes that the fields were cut from: their range of intensities is measured on the plane.
    stack_planes
        How many planes the thinnest calibrated stack has, where planes are restored as parts of stacks; else None.
    pixel_size
        Of the degraded images, where their files say it.
    restorer
        The calibrated one's card, so that it can be said how another one differs, where it is known.
    uncertainty
        What made the uncertainty, for the reader.
    note
        Where the fields come from.
    masked
        How much of the calibration fields is marked.
    versions
        Of the software that calibrated.
    history
        Earlier pins of the same calibration, or of the mask model it began with, the oldest first.
    exploration
        True when tolerance or confidence were moved after the calibration was pinned.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", arbitrary_types_allowed=True, ser_json_inf_nan="strings"
    )  # JSON has no infinity, and a threshold may be infinite: nothing has to be masked

    schema_version: Literal[1] = 1
    guarantee: Guarantee = "marginal"
    delta: float | None = None
    bound: float | None = None
    grouping: Grouping = "worst"
    seed: int = 0
    distance: str
    distance_identity: str = ""
    distance_words: str = ""
    intensity: Intensity = "share"
    tolerance: Annotated[float, Field(gt=0)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    mask: MaskKind
    threshold: Annotated[float, Field(ge=0)]
    n_fields: Annotated[int, Field(ge=1)]
    groups: dict[str, int]
    grouped: bool = True
    field_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    plane_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    stack_planes: Annotated[int, Field(ge=1)] | None = None
    pixel_size: PixelSize | None = None
    fingerprint: Fingerprint
    restorer: ModelCard | None = None
    uncertainty: str = ""
    leave_one_out: Coverage | None = None
    masked: MaskedShare | None = None
    fields: tuple[FieldRecord, ...] = ()
    note: str = ""
    exploration: bool = False
    created: str
    version: str = __version__
    versions: dict[str, str] = Field(default_factory=dict)
    history: tuple[Pin, ...] = ()
    curves: InstanceOf[Curves] | InstanceOf[GridCurves] | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _has_a_promise(self) -> Certificate:
        """Refuse a guarantee without its numbers."""
        _ = self.promise
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Take the distance's words from the distance where a certificate of an earlier version has none."""
        if not self.distance_words:
            object.__setattr__(self, "distance_words", parse_distance(self.distance).sentence_name)

    @property
    def sentence(self) -> str:
        """The promise, as one sentence."""
        return promise_sentence(self)

    @property
    def limits(self) -> str:
        """What the promise does not say."""
        return limits_sentence(self)

    @property
    def group_word(self) -> str:
        """What a group is: a specimen if the user named the groups, else an image."""
        return "specimens" if self.grouped else "images"

    @property
    def promise(self) -> Promise:
        """What was asked for, apart from the fields it was asked of."""
        return Promise(
            tolerance=self.tolerance, confidence=self.confidence, guarantee=self.guarantee, delta=self.delta,
            bound=self.bound, grouping=self.grouping, seed=self.seed,
        )  # fmt: skip

    @property
    def pin(self) -> Pin:
        """What this certificate itself is pinned to."""
        return Pin(
            tolerance=self.tolerance, confidence=self.confidence, date=self.created, guarantee=self.guarantee,
            delta=self.delta, bound=self.bound,
        )  # fmt: skip

    @property
    def owners(self) -> list[str]:
        """The group of each field."""
        return [record.group for record in self.fields]

    def at(self, *, tolerance: float | None = None, confidence: float | None = None) -> Certificate:
        """Return the certificate for another tolerance or confidence, marked as exploration.

        It needs no image: the curves of the calibration fields answer. Between two tolerances of their ladder
        the smaller one is taken, which keeps the promise.

        Raises
        ------
        ValueError
            If a value is out of range, there are too few groups for it, or the curves are missing.
        """
        promise = self.promise.moved(tolerance=tolerance, confidence=confidence)
        if promise == self.promise:
            return self
        if self.curves is None:
            raise ValueError("this certificate has no curves: it answers only for the values it was made with")
        return self.model_copy(
            update={
                "tolerance": check_tolerance(promise.tolerance),
                "confidence": check_confidence(promise.confidence),
                "threshold": promise.threshold(self.curves, self.owners),
                "leave_one_out": leave_one_out(promise, self.curves, self.owners),
                "masked": None,
                "exploration": True,
            }
        )

    def verify(self) -> None:
        """Raise ValueError unless this is a pinned certificate whose threshold its fields and curves give."""
        if self.exploration:
            raise ValueError("the certificate is an exploration; a bundle holds a pinned one")
        if len(self.fields) != self.n_fields or dict(Counter(self.owners)) != self.groups:
            raise ValueError("the certificate does not list the fields it was calibrated on")
        if self.curves is None:
            raise ValueError("the certificate has no curves, so its threshold cannot be checked")
        if isinstance(self.curves, Curves) and not is_exact(parse_distance(self.distance)):
            raise ValueError(
                f"the distance {self.distance} has no exact thresholds, but the certificate has such curves"
            )
        pinned = rounded_down(np.array([record.threshold for record in self.fields]))
        if not np.array_equal(rounded_down(np.asarray(self.curves.at(self.tolerance))), pinned):
            raise ValueError(
                f"the certificate's curves do not belong to its fields at a tolerance of {self.tolerance:g}"
            )
        self._verify_what_is_told()
        own = self.promise.threshold(self.curves, self.owners)
        # The first version wrote thresholds in float64, and rounded only its curves down.
        if own not in (self.threshold, float(rounded_down(np.array(self.threshold)))):
            raise ValueError(f"the certificate's threshold is {self.threshold:g}, but its fields give {own:g}")

    def _verify_what_is_told(self) -> None:
        """Check what stands beside the promise against what it was computed from."""
        known = built_in(self.distance)
        if known is not None and known.sentence_name != self.distance_words:
            raise ValueError(
                f"the certificate calls the distance {self.distance} a {self.distance_words}, which it is not"
            )
        if self.masked is not None and self.masked != MaskedShare.of([record.masked_share for record in self.fields]):
            raise ValueError("the certificate's masked share is not that of its fields")
        if self.curves is not None and self.leave_one_out != leave_one_out(self.promise, self.curves, self.owners):
            raise ValueError("the certificate's leave-one-out coverage is not that of its fields")

    def check_foreign(self, card: ModelCard) -> None:
        """Raise ValueError if a specimen of the calibration was used to train the network of `card`."""
        if shared := card.knows(self.groups):
            raise ValueError(
                f"{card.name} was trained on {', '.join(shared)}, which the certificate was calibrated on; a network "
                "errs less on specimens it has seen: calibrate on others"
            )

    def check_drawn(self) -> None:
        """Raise ValueError if the masks that were calibrated are not those that are drawn."""
        if self.mask != "binary":
            raise ValueError(
                "the certificate is for soft masks, but regions are drawn as binary ones; calibrate for these"
            )

    def check_plane(self, shape: tuple[int, int], *, name: str) -> None:
        """Raise ValueError if the promise does not carry over to planes of `shape`, on the restored grid.

        They may not be smaller than those of the calibration; nor larger, where the uncertainty depends on what lies
        around a field and the calibration fields had less around them.
        """
        for needed, what in ((self.field_shape, "fields"), (self.plane_shape or self.field_shape, "planes")):
            if any(n < calibrated for n, calibrated in zip(shape, needed, strict=True)):
                small, large = (" × ".join(map(str, size)) for size in (shape, needed))
                raise ValueError(
                    f"{name} has planes of {small} pixels, smaller than the calibrated {what} of {large}: the promise "
                    f"says nothing about them; take an image of at least that size, or calibrate on smaller {what}"
                )
        planes, around = self.plane_shape or self.field_shape, 2 * self.fingerprint.context_px
        roomy = all(n >= field + around for n, field in zip(planes, self.field_shape, strict=True))
        if around and not roomy and any(n > calibrated for n, calibrated in zip(shape, planes, strict=True)):
            large, calibrated, enough = (
                " × ".join(map(str, size)) for size in (shape, planes, [field + around for field in self.field_shape])
            )
            raise ValueError(
                f"{name} has planes of {large} pixels, larger than the calibrated ones of {calibrated}: the error "
                "budget adds up what lies around a field, so the promise does not carry over; calibrate on planes of "
                f"{large}, or cut fields (--field-px) from planes of at least {enough}"
            )

    def check_pixel_size(self, found: PixelSize | None, *, name: str) -> None:
        """Raise ValueError if an image was taken at another magnification than those of the calibration."""
        if found is None or self.pixel_size is None or self.pixel_size.is_like(found):
            return
        reason = (
            "at another magnification the promise says nothing; correct the image's pixel size if it is wrong, or "
            "calibrate on such images"
        )
        if found.times(self.pixel_size) is None:
            reason = "one of these is no length, so nobody can tell whether they are the same; correct it in the image"
        raise ValueError(f"{name} has pixels of {found}, the calibrated images of {self.pixel_size}: {reason}")

    def check_stack(self, planes: int, *, name: str) -> None:
        """Raise ValueError if a stack is thinner than the calibrated ones: its planes have fewer neighbours."""
        if self.stack_planes is not None and planes < self.stack_planes:
            raise ValueError(
                f"{name} is in a stack of {planes} planes, fewer than the {self.stack_planes} of the thinnest stack "
                "calibrated: planes are restored as parts of their stack, so the promise says nothing about it; take "
                "thicker stacks, or calibrate on thinner ones"
            )

    def check(self, fingerprint: Fingerprint) -> None:
        """Raise ValueError, naming what differs, unless the promise holds for `fingerprint`."""
        if differences := self.fingerprint.differences(fingerprint):
            raise ValueError(
                f"the certificate does not hold here: {', '.join(differences)} "
                "differ from what was calibrated; choose the pair that belongs together, or calibrate again"
            )


def leave_one_out(promise: Promise, curves: AnyCurves, owners: Sequence[str]) -> Coverage | None:
    """Coverage of each group by the threshold of the others; None when they are too few to say anything."""
    counts = promise.kept_left_out(curves, owners)
    if counts is None:
        return None
    low, high = clopper_pearson(*counts)
    return Coverage(kept=counts[0], of=counts[1], low=low, high=high)


def clopper_pearson(kept: int, of: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share."""
    from scipy.stats import binomtest  # 0.3 s to import, and only calibration needs it

    interval = binomtest(kept, of).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)
