"""A certificate in short, as labelled lines, for whoever has to decide whether to rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.calibrate.certificate import MaskedShare
from napari_maskcal.calibrate.words import amount

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate, Coverage

_UNITS = {
    "share": "shares of the plane's intensity range",
    "raw": "raw intensities of the images",
    "none": "none; the distance has no unit",
}
_MOST_NAMED = 12


def certificate_lines(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what a certificate says beside its sentence: (label, words), in the order to be read."""
    lines = [
        ("Guarantee", guarantee_words(certificate)),
        ("Distance", _distance(certificate)),
        ("Unit of errors", _UNITS[certificate.intensity]),
        ("Threshold", f"{certificate.threshold:.6g} ({certificate.mask} mask)"),
        ("Uncertainty", certificate.uncertainty),
        ("Calibrated on", _fields(certificate)),
        ("Pixel size", str(certificate.pixel_size or "")),
        ("Masked share", _masked(certificate)),
        ("Leave-one-out", coverage_words(certificate.leave_one_out, certificate.group_word)),
        ("Fields from", certificate.note),
        ("Made", f"{certificate.created}, " + ", ".join(_versions(certificate))),
        ("Earlier pins", "; ".join(_pins(certificate))),
    ]
    return [(label, words) for label, words in lines if words]


def promise_words(certificate: Certificate) -> str:
    """Return the promise as it may be shown: of an exploration it is said first that it is none."""
    lead = "Exploration, not a promise to quote: " if certificate.exploration else ""
    return lead + certificate.sentence


def guarantee_words(certificate: Certificate) -> str:
    """Return the guarantee with its numbers."""
    tolerance = amount(certificate.tolerance, certificate)
    numbers = {
        "marginal": f"confidence {percent(certificate.confidence)}",
        "pac": f"confidence {percent(certificate.confidence)}, delta {percent(certificate.delta or 0)}",
        "expected": f"mean, a distance counted as at most {amount(certificate.bound or 0, certificate)}",
    }[certificate.guarantee]
    drawn = f"one field of a group counts, drawn with seed {certificate.seed}"
    which = "all fields of a group count" if certificate.grouping == "worst" else drawn
    return f"{certificate.guarantee}, tolerance {tolerance}, {numbers}; {which}"


def masked_words(masked: MaskedShare) -> str:
    """Return how much is marked."""
    low, middle, high = (percent(share) for share in masked.quartiles)
    return (
        f"mean {percent(masked.mean)}, quartiles {low}, {middle}, {high}; nothing is marked in "
        f"{percent(masked.untouched)} of the fields, everything in {percent(masked.whole)}"
    )


def coverage_words(coverage: Coverage | None, unit: str) -> str:
    """Return how many groups were kept, with the interval; empty where it is not known."""
    if coverage is None:
        return ""
    return (
        f"kept for {coverage.kept} of {number_of(coverage.of, unit)} (95 % interval of the share "
        f"{coverage.low:.2f} to {coverage.high:.2f})"
    )


def _distance(certificate: Certificate) -> str:
    made_of = f", {certificate.distance_identity}" if certificate.distance_identity else ""
    return f"{certificate.distance}, {certificate.distance_words}{made_of}"


def _fields(certificate: Certificate) -> str:
    size = " × ".join(map(str, certificate.field_shape))
    named = [f"{name} ({count})" for name, count in certificate.groups.items()]
    more = [f"and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
    return (
        f"{number_of(certificate.n_fields, 'fields')} of {number_of(len(named), certificate.group_word)}, each {size} "
        "pixels: "
        + ", ".join([*named[:_MOST_NAMED], *more])
    )  # fmt: skip


def _masked(certificate: Certificate) -> str:
    """Return how much is marked; certificates of the first version have it with their fields only."""
    if certificate.masked is not None:
        return masked_words(certificate.masked)
    if certificate.exploration or not certificate.fields:
        return ""
    return masked_words(MaskedShare.of([record.masked_share for record in certificate.fields]))


def _versions(certificate: Certificate) -> list[str]:
    found = certificate.versions or {"napari-maskcal": certificate.version}
    return [f"{name} {version}" for name, version in found.items()]


def _pins(certificate: Certificate) -> list[str]:
    return [
        f"{pin.date}: tolerance {amount(pin.tolerance, certificate)}, confidence {percent(pin.confidence)}"
        for pin in certificate.history
    ]


def number_of(count: int, several: str) -> str:
    """Return how many of something there are: ``"2 images"``, ``"1 image"``."""
    return f"{count} {several.removesuffix('s') if count == 1 else several}"


def percent(share: float) -> str:
    """Return a share that was found as percent, to three digits; 100 % and 0 % only where it is just that."""
    if 0 < share < 1e-6:
        return "less than 0.0001 %"
    texts = (f"{100 * share:.{digits}g}" for digits in (3, 4, 5))
    found = next((text for text in texts if text != "100" or share == 1), "more than 99.99")
    return f"{found} %"
