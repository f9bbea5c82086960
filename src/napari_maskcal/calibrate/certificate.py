"""The frozen result of a calibration: the threshold, the promise in words, and all it depends on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from napari_maskcal import __version__
from napari_maskcal.calibrate.guarantee import conformal_threshold, marginal_rank, worst_of_each_group
from napari_maskcal.calibrate.threshold import MaskKind
from napari_maskcal.distance.registry import parse_distance
from napari_maskcal.restore.card import ModelCard, Normalisation
from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DEPLOYED_DTYPE = "float32"


class Fingerprint(BaseModel):
    """All that makes the uncertainty. At another fingerprint the promise is void."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    restorer_sha256: str
    mask_sha256: str
    normalisation: Normalisation
    dtype: str = _DEPLOYED_DTYPE
    tiles: Literal["exact", "never cut"] = "exact"

    @classmethod
    def of(cls, restorer: Any, mask_card: ModelCard, mask_sha256: str) -> Fingerprint:
        """Return the fingerprint of a restorer together with a mask network."""
        bounded = restorer.card.halo_px is not None and mask_card.halo_px is not None
        return cls(
            restorer_sha256=restorer.sha256,
            mask_sha256=mask_sha256,
            normalisation=restorer.card.normalisation,
            tiles="exact" if bounded else "never cut",
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """Return what differs, in words."""
        words = {
            "restorer_sha256": "the restorer",
            "mask_sha256": "the mask network",
            "normalisation": "the normalisation of intensities",
            "dtype": "the number type",
            "tiles": "the tiling",
        }
        return [text for name, text in words.items() if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, slots=True)
class Curves:
    """Image thresholds of each calibration field over a grid of tolerances.

    Attributes
    ----------
    tolerances
        Ascending, (T,), float64.
    thresholds
        (fields, T), float32, rounded down: never above the exact value.
    """

    tolerances: NDArray[np.float64]
    thresholds: NDArray[np.float32]

    def at(self, tolerance: float) -> NDArray[np.float32]:
        """Return each field's threshold at `tolerance`, or at the next smaller one of the grid.

        Raises
        ------
        ValueError
            If `tolerance` lies below the grid.
        """
        index = int(np.searchsorted(self.tolerances, tolerance, side="right")) - 1
        if index < 0:
            raise ValueError(f"tolerance is {tolerance:g}; this certificate answers from {self.tolerances[0]:g} on")
        return self.thresholds[:, index]


class FieldRecord(BaseModel):
    """What calibration found for one field."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    group: str
    distance: float
    threshold: float
    masked_share: float


class Coverage(BaseModel):
    """Leave-one-out coverage: each group (field) against the threshold of all the others."""

    model_config = ConfigDict(frozen=True)

    kept: int
    of: int
    low: float
    high: float


class Certificate(BaseModel):
    """The promise, its threshold, and what both depend on.

    Attributes
    ----------
    distance, tolerance, confidence, guarantee, mask
        What was asked for. The tolerance is a share of the plane's intensity range.
    threshold
        Uncertainty above this is marked.
    n_fields, groups, field_shape
        Calibration fields, how many each group has, and the (Y, X) size the promise is about.
    note
        Where the fields come from.
    exploration
        True when tolerance or confidence were moved after the calibration was pinned.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", arbitrary_types_allowed=True, ser_json_inf_nan="strings"
    )  # JSON has no infinity, and a threshold may be infinite: nothing has to be masked

    schema_version: Literal[1] = 1
    guarantee: Literal["marginal"] = "marginal"
    distance: str
    tolerance: Annotated[float, Field(gt=0)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    mask: MaskKind
    threshold: Annotated[float, Field(ge=0)]
    n_fields: Annotated[int, Field(ge=1)]
    groups: dict[str, int]
    field_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    fingerprint: Fingerprint
    leave_one_out: Coverage | None = None
    fields: tuple[FieldRecord, ...] = ()
    note: str = ""
    exploration: bool = False
    created: str
    version: str = __version__
    curves: InstanceOf[Curves] | None = Field(default=None, exclude=True, repr=False)

    @property
    def sentence(self) -> str:
        """The promise, as one sentence."""
        per_group = sorted(set(self.groups.values()))
        size = " × ".join(str(n) for n in self.field_shape)
        if per_group == [1]:
            fields = f"a field of {size} pixels"
        elif len(per_group) == 1:
            fields = f"all of {per_group[0]} fields of {size} pixels"
        else:
            fields = f"all fields of {size} pixels, as many as these have,"
        error = parse_distance(self.distance).sentence_name
        return (
            f"In at least {_percent(self.confidence)} of new specimens like the {len(self.groups)} calibrated ones, "
            f"the {error} outside the marked regions is at most {_percent(self.tolerance)} of the plane's intensity "
            f"range in {fields} drawn at random."
        )

    @property
    def limits(self) -> str:
        """What the promise does not say."""
        return (
            f"It is not a promise for specimens of another kind, for each single pixel, for one given image, or for "
            f"all blocks of {self.field_shape[0]} × {self.field_shape[1]} pixels of a larger plane or a stack at once."
        )

    def at(self, *, tolerance: float | None = None, confidence: float | None = None) -> Certificate:
        """Return the certificate for another tolerance or confidence, marked as exploration.

        It needs no image: the curves of the calibration fields answer. Between two tolerances of their grid
        the smaller one is taken, which keeps the promise.

        Raises
        ------
        ValueError
            If a value is out of range, there are too few groups for it, or the curves are missing.
        """
        # A number that went through a text field comes back with its last digit changed.
        tolerance = check_tolerance(_pinned_or(tolerance, self.tolerance))
        confidence = check_confidence(_pinned_or(confidence, self.confidence))
        if (tolerance, confidence) == (self.tolerance, self.confidence):
            return self
        if self.curves is None:
            raise ValueError("this certificate has no curves: it answers only for the values it was made with")
        owners = [record.group for record in self.fields]
        threshold = conformal_threshold(self.curves.at(tolerance), confidence=confidence, groups=owners)
        return self.model_copy(
            update={
                "tolerance": tolerance,
                "confidence": confidence,
                "threshold": threshold,
                "leave_one_out": leave_one_out(self.curves.at(tolerance), owners, confidence),
                "exploration": True,
            }
        )

    def verify(self) -> None:
        """Raise ValueError unless this is a pinned certificate whose threshold its fields and curves give."""
        parse_distance(self.distance)
        if self.exploration:
            raise ValueError("the certificate is an exploration; a bundle holds a pinned one")
        owners = [record.group for record in self.fields]
        if len(owners) != self.n_fields or dict(Counter(owners)) != self.groups:
            raise ValueError("the certificate does not list the fields it was calibrated on")
        own = conformal_threshold([r.threshold for r in self.fields], confidence=self.confidence, groups=owners)
        if own != self.threshold:
            raise ValueError(f"the certificate's threshold is {self.threshold:g}, but its fields give {own:g}")
        pinned = rounded_down(np.array([record.threshold for record in self.fields]))
        if self.curves is None or not np.array_equal(self.curves.at(self.tolerance), pinned):
            raise ValueError(
                f"the certificate's curves do not belong to its fields at a tolerance of {self.tolerance:g}"
            )

    def check_foreign(self, card: ModelCard) -> None:
        """Raise ValueError if a specimen of the calibration was used to train the network of `card`."""
        if shared := sorted(set(self.groups) & set(card.trained_on)):
            raise ValueError(
                f"{card.name} was trained on {', '.join(shared)}, which the certificate was calibrated on; a network "
                "errs less on specimens it has seen: calibrate on others"
            )

    def check_plane(self, shape: tuple[int, int], *, name: str) -> None:
        """Raise ValueError if planes of `shape`, on the restored grid, are smaller than the fields of the promise."""
        if any(n < calibrated for n, calibrated in zip(shape, self.field_shape, strict=True)):
            small, field = (" × ".join(map(str, size)) for size in (shape, self.field_shape))
            raise ValueError(
                f"{name} has planes of {small} pixels, smaller than the calibrated fields of {field}: the promise "
                "says nothing about them; take an image of at least that size, or calibrate on smaller fields"
            )

    def check(self, fingerprint: Fingerprint) -> None:
        """Raise ValueError, naming what differs, unless the promise holds for `fingerprint`."""
        if differences := self.fingerprint.differences(fingerprint):
            raise ValueError(
                f"the certificate does not hold here: {', '.join(differences)} "
                "differ from what was calibrated; choose the pair that belongs together, or calibrate again"
            )


def rounded_down(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 numbers that are not above `exact`."""
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)


def _pinned_or(value: float | None, pinned: float) -> float:
    return pinned if value is None or np.isclose(value, pinned, rtol=1e-9, atol=0) else value


def leave_one_out(thresholds: NDArray[Any], owners: Sequence[str], confidence: float) -> Coverage | None:
    """Coverage of each group by the threshold of the others; None when they are too few to say anything.

    At rank 1 it is n - 1 of n whatever the data: the group with the smallest threshold fails, and no other.
    """
    worst = worst_of_each_group(np.asarray(thresholds, dtype=np.float64), owners)
    n = len(worst)
    rank = marginal_rank(n - 1, confidence)
    if rank < 2:
        return None
    kept = sum(int(own >= np.sort(np.delete(worst, i))[rank - 1]) for i, own in enumerate(worst))
    low, high = clopper_pearson(kept, n)
    return Coverage(kept=kept, of=n, low=low, high=high)


def clopper_pearson(kept: int, of: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share."""
    from scipy.stats import binomtest  # 0.3 s to import, and only calibration needs it

    interval = binomtest(kept, of).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
