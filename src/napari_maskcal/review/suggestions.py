"""Which tolerances are worth a thought, in shares of the intensity range and in counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.review.certificate_words import number_of, percent

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certify import Measured

ADVICE = (
    "Choose by what your question takes, or on fields that calibration will not use: a tolerance that was picked "
    "because its mask looked nice was not fixed beforehand."
)


def suggestions(measured: Measured) -> dict[str, Any]:
    """Return the distribution of distances and the suggested tolerances, ready for JSON."""
    low, middle, high = (float(value) for value in np.quantile(measured.distances, (0, 0.5, 1)))
    return {
        "distance": measured.distance.name,
        "intensity": measured.intensity,
        "n_fields": len(measured.fields),
        "n_groups": len(set(measured.owners)),
        "distances": {"smallest": low, "median": middle, "largest": high},
        "tolerances": [
            {"tolerance": tolerance, "share_of_fields_without_mask": unmasked, **in_units(tolerance, measured)}
            for tolerance, unmasked in _tolerances(measured)
        ],
    }


def suggestion_lines(measured: Measured) -> list[str]:
    """Return the same in sentences."""
    low, middle, high = (
        _both(f"{value:.3g}", value, measured) for value in np.quantile(measured.distances, (0, 0.5, 1)).tolist()
    )
    found = [
        f"--tolerance {_both(f'{tolerance:g}', tolerance, measured)}: {percent(unmasked)} of the fields need no mask"
        for tolerance, unmasked in _tolerances(measured)
    ]
    return [
        f"Measured: {number_of(len(measured.fields), 'fields')} of {_groups(measured)}. Without any mask the "
        f"{measured.distance.sentence_name} is {low} to {high}, in the middle {middle}.",
        *(found or ["No field differs from its truth, so there is nothing to tolerate."]),
        ADVICE,
    ]


def _groups(measured: Measured) -> str:
    return number_of(len(set(measured.owners)), "specimens" if measured.grouped else "images")


def in_units(value: float, measured: Measured) -> dict[str, float]:
    """Return a distance as a share of the intensity range and in counts, at the median range of the fields."""
    if measured.intensity == "none":
        return {}
    span = float(np.median([field.span for field in measured.fields]))
    share, counts = (value, value * span) if measured.intensity == "share" else (value / span, value)
    return {"share": share, "counts": counts}


def _both(text: str, value: float, measured: Measured) -> str:
    """Return `text`, which says a distance in the unit of the tolerance, with the other units behind it."""
    units = in_units(value, measured)
    if not units:
        return text
    return f"{text} ({percent(units['share'])} of the intensity range, about {units['counts']:.3g} counts)"


def _tolerances(measured: Measured) -> list[tuple[float, float]]:
    """Return each suggested tolerance once, with the share of fields that keep it without any mask."""
    found = dict.fromkeys(measured.suggested_tolerances().values())
    return [(tolerance, float(np.mean(measured.distances <= tolerance))) for tolerance in found]
