"""The promise as sentences that a reviewer of a paper would accept, and what it does not say."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from napari_maskcal.calibrate.guarantee import rank_of
from napari_maskcal.calibrate.threshold import is_exact
from napari_maskcal.distance.registry import built_in

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate


def promise_sentence(certificate: Certificate) -> str:
    """Return the promise, as one sentence."""
    n, new = len(certificate.groups), certificate.group_word
    error = f"the {certificate.distance_words} {_where(certificate)}"
    limit = f"is at most {amount(certificate.tolerance, certificate)}"
    if certificate.guarantee == "expected":
        bound = amount(certificate.bound or 0, certificate)
        return f"On average over new {new} like the {n} calibrated ones, {_largest(certificate, error, bound)} {limit}."
    fields = _fields(certificate)
    share = f"at least {percent_at_least(certificate.confidence)} of new {new}"
    if certificate.guarantee == "pac":
        sure = percent_at_least(1 - (certificate.delta or 0))
        return (
            f"With a probability of at least {sure} over the choice of the {n} calibrated {new}, in {share} like them, "
            f"{error} {limit} in {fields}."
        )
    return f"In {share} like the {n} calibrated ones, {error} {limit} in {fields}."


def limits_sentence(certificate: Certificate) -> str:
    """Return what the promise does not say."""
    size, unit = _size(certificate), certificate.group_word
    several = certificate.grouping == "one" and set(certificate.groups.values()) != {1}
    at_once = f"for all fields of {_a(unit)} at once, " if several else ""
    parts = [
        f"It is not a promise for {unit} of another kind, {at_once}for each single pixel, "
        f"for one given image, or for all blocks of {size} of a larger plane or a stack at once."
    ]
    if certificate.intensity == "share":
        low, high = (
            certificate.fingerprint.normalisation.low_percentile,
            certificate.fingerprint.normalisation.high_percentile,
        )
        parts.append(
            f"A plane's intensity range is that between the percentiles {low:g} and {high:g} of the degraded plane."
        )
    if certificate.plane_shape not in (None, certificate.field_shape):
        planes = " × ".join(map(str, certificate.plane_shape or ()))
        parts.append(f"The fields were cut from planes of {planes} pixels; smaller planes are not covered.")
    if certificate.stack_planes is not None:
        parts.append(
            f"The planes are restored as parts of volumes, whole stacks of at least {certificate.stack_planes} planes; "
            "thinner stacks are not covered."
        )
    if certificate.guarantee == "expected":
        parts.append(
            f"The average is over calibrations too, so after this one it may be larger; and of a single one of the new "
            f"{unit} nothing is said."
        )
    if (interval := coverage_of_calibrations(certificate)) is not None:
        least, most = percent_at_least(interval[0]), percent_at_most(interval[1])
        kept = f"8 of 10 calibrations keep between {least} and {most}"
        if not _all_different(certificate):
            kept = f"9 of 10 calibrations keep at least {least}"
        parts.append(f"The share is an average over calibrations: with {len(certificate.groups)} {unit}, {kept}.")
    return " ".join(parts)


def coverage_of_calibrations(certificate: Certificate) -> tuple[float, float] | None:
    """Return the 10 % and 90 % quantile of the share of new groups that a calibration of this size keeps.

    It is Beta(n + 1 - k, k) for n groups and rank k, whatever the data, as long as no two thresholds are equal (Vovk,
    ACML 2012); where some are, the share is larger. Only the marginal promise leaves it open.
    """
    if certificate.guarantee != "marginal":
        return None
    from scipy.special import betaincinv

    n = len(certificate.groups)
    rank = rank_of(n, certificate.confidence)
    low, high = (float(betaincinv(n + 1 - rank, rank, quantile)) for quantile in (0.1, 0.9))
    return low, high


def amount(value: float, certificate: Certificate) -> str:
    """Return a tolerance with its unit, never less than it is."""
    if certificate.intensity == "share":
        return f"{percent_at_most(value)} of the plane's intensity range"
    text = _rounded(value, ROUND_CEILING)
    return f"{text} intensity units" if certificate.intensity == "raw" else text


def percent_at_least(share: float) -> str:
    """Return a share as percent, never more than it is."""
    return f"{_rounded(100 * share, ROUND_FLOOR)} %"


def percent_at_most(share: float) -> str:
    """Return a share as percent, never less than it is."""
    return f"{_rounded(100 * share, ROUND_CEILING)} %"


def _rounded(value: float, direction: str) -> str:
    """Return a number with up to three digits, or five where they say it exactly."""
    exact = Decimal(f"{value:.9g}")  # 100 * 0.07 is 7.000000000000001
    digits = 5 if exact == Decimal(f"{value:.5g}") else 3
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() + 1 - digits), rounding=direction).normalize()
    return f"{rounded:f}" if -5 < rounded.adjusted() < 9 else f"{rounded:e}"


def _where(certificate: Certificate) -> str:
    """Return what of the image counts."""
    if certificate.mask == "soft":
        return "after each pixel of both images is multiplied by its trust"
    if certificate.distance.startswith("linf"):
        return "outside the marked regions"
    if _is_exact(certificate):
        return "outside the marked regions (whose pixels count as 0)"
    return "outside the marked regions (set to 0 in both images)"


def _largest(certificate: Certificate, error: str, bound: str) -> str:
    """Return the quantity whose mean is promised: of several fields of a group, the worst counts."""
    each = f"{error}, counted as at most {bound},"
    if _one_field(certificate):
        return f"{each} in {_fields(certificate)}"
    return f"the largest value of {each} in {_fields(certificate)}"


def _fields(certificate: Certificate) -> str:
    counts = sorted(set(certificate.groups.values()))
    if _one_field(certificate):
        return f"a field of {_size(certificate)} drawn at random"
    if len(counts) == 1:
        return f"all of {counts[0]} fields of {_size(certificate)} drawn at random"
    return f"all fields of {_size(certificate)}, as many as these have, drawn at random"


def _a(unit: str) -> str:
    return {"specimens": "a specimen", "images": "an image"}[unit]


def _one_field(certificate: Certificate) -> bool:
    return set(certificate.groups.values()) == {1} or certificate.grouping == "one"


def _size(certificate: Certificate) -> str:
    return " × ".join(str(n) for n in certificate.field_shape) + " pixels"


def _all_different(certificate: Certificate) -> bool:
    """Whether the thresholds of the groups around the chosen one can be taken to be all different."""
    return 0 < certificate.threshold < float("inf") and _is_exact(certificate)


def _is_exact(certificate: Certificate) -> bool:
    """Whether it is L1, L2, ... or L-infinity of this package; another package's distance may not be at hand."""
    known = built_in(certificate.distance)
    return known is not None and is_exact(known)
