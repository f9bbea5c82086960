"""From the pixels of one field to the little that calibration needs of it."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.calibrate.curves import AnyCurves, Curves, GridCurves, rounded_down, rounded_up
from napari_maskcal.calibrate.grid import THRESHOLD_GRID, walk
from napari_maskcal.calibrate.ladder import STEPS_PER_DECADE, rung_above, rungs
from napari_maskcal.calibrate.threshold import checked_field, curve_of_error, is_exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_maskcal.calibrate.sums import MaskKind
    from napari_maskcal.distance.base import Distance

_RUNGS = 3 * STEPS_PER_DECADE  # kept of a field: from a thousandth of its distance up
_LONGEST = 10 * STEPS_PER_DECADE
_QUANTILES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationField:
    """One field whose truth is known.

    Attributes
    ----------
    name, source, group
        Of the field, of the plane it was cut from, and of the specimen it belongs to.
    uncertainty
        (Y, X), above 0, on the restored grid.
    restored, truth
        (Y, X), on the same grid, in the unit of the tolerance: shares of the intensity range of the plane the
        field was cut from, or raw intensities.
    span
        That range in raw intensities; 1 where it is not known.
    sha256
        Of the content it came from.
    plane_shape
        (Y, X) of the plane it was cut from; None: it is a whole plane.
    """

    name: str
    group: str
    uncertainty: NDArray[np.float32]
    restored: NDArray[Any]
    truth: NDArray[Any]
    span: float = 1.0
    source: str = ""
    sha256: str = ""
    plane_shape: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredField:
    """What calibration keeps of one field.

    Attributes
    ----------
    name, source, group, sha256, span
        As of the `CalibrationField`.
    shape, plane_shape
        (Y, X) of the field, and of the plane it was cut from.
    distance
        Of the whole restored image from the truth: nothing is masked.
    first
        Rung of the ladder of tolerances at which `curve` begins.
    curve
        float32: thresholds on the ladder, rounded down; for a distance that is walked, distances along the grid of
        thresholds, rounded up, NaN beyond where the walk stopped.
    quantiles
        Of the uncertainty, float32, rounded up, ascending, the smallest and the largest among them: they give the
        masked share at any threshold, to 0.2 %, and exactly whether anything or everything is masked.
    reach
        The largest tolerance that `curve` answers as well as a new measurement would.
    """

    name: str
    source: str
    group: str
    sha256: str
    span: float
    shape: tuple[int, int]
    plane_shape: tuple[int, int]
    distance: float
    first: int
    curve: NDArray[np.float32]
    quantiles: NDArray[np.float32]
    reach: float = np.inf

    def masked_share(self, threshold: float, mask: MaskKind) -> float:
        """Return the share of pixels above `threshold`; of a soft mask, the mean of 1 - trust."""
        if mask == "binary":
            return float(np.mean(self.quantiles > threshold))
        return float(np.mean(1 - np.minimum(threshold / self.quantiles.astype(np.float64), 1)))

    def to_bytes(self) -> bytes:
        """Return it in a form to be kept."""
        from safetensors.numpy import save

        facts = {
            "name": self.name, "source": self.source, "group": self.group, "sha256": self.sha256, "span": self.span,
            "shape": self.shape, "plane_shape": self.plane_shape, "distance": self.distance, "first": self.first,
            "reach": self.reach,
        }  # fmt: skip
        return save({"curve": self.curve, "quantiles": self.quantiles}, metadata={"field": json.dumps(facts)})

    @classmethod
    def from_bytes(cls, content: bytes) -> MeasuredField:
        """Return what `to_bytes` was made from."""
        from safetensors.numpy import load

        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"]["field"])
        for name in ("shape", "plane_shape"):
            facts[name] = tuple(facts[name])
        return cls(**facts, curve=arrays["curve"], quantiles=arrays["quantiles"])


def measure_fields(
    fields: Iterable[CalibrationField],
    distance: Distance,
    *,
    mask: MaskKind,
    stop_above: float = np.inf,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[MeasuredField]:
    """Yield what calibration keeps of each field; no more than a few are in memory at once.

    Parameters
    ----------
    fields
        Read as they are needed.
    distance, mask
        See `image_threshold`.
    stop_above
        For a distance that is walked: the largest tolerance that will be asked for.
    cancelled
        Asked now and then; once it says yes, the stream simply ends.

    Raises
    ------
    ValueError
        If a field is not valid; the message names it.
    """
    if is_exact(distance):
        for field in fields:
            yield _measured(field, distance, mask)
        return
    waiting: deque[MeasuredField] = deque()  # of the pixels, the walk alone keeps those that it still needs
    pixels = _noted(fields, waiting)
    for found in walk(pixels, distance, mask=mask, stop_above=stop_above, whole=True, cancelled=cancelled):
        reach = stop_above if np.isnan(found).any() else np.inf
        yield replace(waiting.popleft(), distance=float(found[-1]), curve=rounded_up(found), reach=reach)


def together(fields: Sequence[MeasuredField]) -> AnyCurves:
    """Return the curves of all fields on one ladder of tolerances, or on the grid of thresholds.

    The ladder ends where every field passes untouched, and begins where the curve of the best field does, at most ten
    decades lower; below a field's own curve its threshold counts as 0.
    """
    if len(fields[0].curve) == len(THRESHOLD_GRID):
        return GridCurves(THRESHOLD_GRID, np.stack([field.curve for field in fields]))
    begins = [field.first for field in fields if field.distance > 0] or [fields[0].first]
    last = max(begins) + _RUNGS
    first = max(min(begins), last - _LONGEST)
    thresholds = np.zeros((len(fields), last - first), np.float32)
    for row, field in zip(thresholds, fields, strict=True):
        start = field.first - first
        row[max(start + _RUNGS, 0) :] = np.inf
        if start + _RUNGS > 0:
            row[max(start, 0) : start + _RUNGS] = field.curve[max(-start, 0) :]
    return Curves(rungs(first, last - first), thresholds)


def _measured(field: CalibrationField, distance: Any, mask: MaskKind) -> MeasuredField:
    u, restored, truth = _checked(field)
    error = distance.error(restored, truth, u.shape)
    whole = float(distance(np.ones((), bool), error))
    # The last rung is above the distance, whatever the rounding, so that the field passes there untouched. A field
    # without any error does so at every tolerance: its curve lies below all others.
    first = rung_above(whole if whole > 0 else 1e-30) + 2 - _RUNGS
    thresholds = curve_of_error(u.ravel(), error.ravel(), distance, rungs(first, _RUNGS), mask)
    return _record(field, whole, first, rounded_down(np.maximum.accumulate(thresholds)))


def _noted(
    fields: Iterable[CalibrationField], waiting: deque[MeasuredField]
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield the pixels of each field, and put all else that is kept of it into `waiting`."""
    for field in fields:
        pixels = _checked(field)
        waiting.append(_record(field, np.nan, 0, np.empty(0, np.float32)))
        yield field.name, *pixels


def _record(field: CalibrationField, whole: float, first: int, curve: NDArray[np.float32]) -> MeasuredField:
    shape = (field.uncertainty.shape[0], field.uncertainty.shape[1])
    return MeasuredField(
        name=field.name, source=field.source, group=field.group, sha256=field.sha256, span=field.span,
        shape=shape, plane_shape=field.plane_shape or shape, distance=whole, first=first, curve=curve,
        quantiles=_quantiles(field.uncertainty),
    )  # fmt: skip


def _quantiles(u: NDArray[Any]) -> NDArray[np.float32]:
    """Return `_QUANTILES` of the uncertainties in equal steps from the smallest to the largest, or all if they are few.

    A float32 threshold lies below the number rounded up if, and only if, it lies below the number.
    """
    ranks = np.linspace(0, u.size - 1, min(u.size, _QUANTILES)).round().astype(np.intp)
    return rounded_up(np.sort(u, axis=None)[ranks])


def _checked(field: CalibrationField) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    try:
        return checked_field(field.uncertainty, field.restored, field.truth)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}") from None
