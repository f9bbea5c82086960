"""The promise as sentences that a reviewer of a paper would accept, and what it does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.calibrate.guarantee import rank_of
from napari_maskcal.restore.kinds import GIVEN

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate


def promise_sentence(certificate: Certificate) -> str:
    """Return the promise, as one sentence."""
    n, new = len(certificate.groups), certificate.group_word
    error = f"the {certificate.distance_words} {_where(certificate)}"
    limit = f"is at most {amount(certificate.tolerance, certificate)}"
    fields = _fields(certificate)
    if certificate.guarantee == "expected":
        bound = amount(certificate.bound or 0, certificate)
        return (
            f"On average over new {new} like the {n} calibrated ones, {error}, counted as at most {bound}, {limit} "
            f"in {fields}."
        )
    share = f"at least {percent(certificate.confidence)} of new {new} like the {n} calibrated ones"
    if certificate.guarantee == "pac":
        certainty = percent(1 - (certificate.delta or 0))
        return f"With {certainty} certainty about the calibration, in {share}, {error} {limit} in {fields}."
    return f"In {share}, {error} {limit} in {fields}."


def limits_sentence(certificate: Certificate) -> str:
    """Return what the promise does not say."""
    size = " × ".join(str(n) for n in certificate.field_shape)
    parts = [
        f"It is not a promise for {certificate.group_word} of another kind, for each single pixel, for one given "
        f"image, or for all blocks of {size} pixels of a larger plane or a stack at once."
    ]
    if certificate.fingerprint.restorer_sha256 == GIVEN:
        parts.append(
            "The restored images came from another tool, which nothing here can tell from others: the promise is void "
            "where another, or other settings of it, made them."
        )
    if (interval := coverage_of_calibrations(certificate)) is not None:
        low, high = (percent(value) for value in interval)
        parts.append(
            f"The share is an average over calibrations: with {len(certificate.groups)} {certificate.group_word}, 8 of "
            f"10 calibrations keep between {low} and {high}."
        )
    return " ".join(parts)


def coverage_of_calibrations(certificate: Certificate) -> tuple[float, float] | None:
    """Return the 10 % and 90 % quantile of the share of new groups that a calibration of this size keeps.

    It is Beta(n + 1 - k, k) for n groups and rank k, whatever the data, as long as no two thresholds are equal (Vovk,
    ACML 2012). Only the marginal promise leaves it open.
    """
    if certificate.guarantee != "marginal":
        return None
    from scipy.special import betaincinv

    n = len(certificate.groups)
    rank = rank_of(n, certificate.confidence)
    low, high = (float(betaincinv(n + 1 - rank, rank, quantile)) for quantile in (0.1, 0.9))
    return low, high


def amount(value: float, certificate: Certificate) -> str:
    """Return a tolerance with its unit."""
    if certificate.intensity == "share":
        return f"{percent(value)} of the plane's intensity range"
    return f"{value:.4g} intensity units" if certificate.intensity == "raw" else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as percent, with up to three digits, and more only where they say 'not 100'."""
    text = f"{100 * share:.3g}"
    return f"{100 * share:.6g} %" if text == "100" and share < 1 else f"{text} %"


def _where(certificate: Certificate) -> str:
    return "outside the marked regions" if certificate.mask == "binary" else "of the image weighted by the soft mask"


def _fields(certificate: Certificate) -> str:
    size = " × ".join(str(n) for n in certificate.field_shape)
    counts = sorted(set(certificate.groups.values()))
    if counts == [1] or certificate.grouping == "one":
        return f"a field of {size} pixels drawn at random"
    if len(counts) == 1:
        return f"all of {counts[0]} fields of {size} pixels drawn at random"
    return f"all fields of {size} pixels, as many as these have, drawn at random"
