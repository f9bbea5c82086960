"""What the maker of a certificate has to be told: that its mask marks everything, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.calibrate.words import amount

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate


def remarks(certificate: Certificate) -> list[str]:
    """Return a line for each thing that makes a certificate of little use, though its promise holds."""
    found = []
    shares = [record.masked_share for record in certificate.fields]
    by_distance = sorted(certificate.fields, key=lambda record: record.distance)
    tolerance = amount(certificate.tolerance, certificate)
    best, worst = (
        f"{amount(record.distance, certificate)} of {record.name}" for record in (by_distance[0], by_distance[-1])
    )
    whole = sum(share == 1 for share in shares)
    if 2 * whole >= len(shares):
        found.append(
            f"everything is marked in {whole} of {len(shares)} fields: the promise holds, and says nothing there; the "
            f"tolerance is {tolerance}, and the smallest distance without any mask is {best}: raise the tolerance"
        )
    elif certificate.tolerance < by_distance[0].distance:
        found.append(
            f"the tolerance of {tolerance} is below the smallest distance without any mask, {best}: every field needs "
            "marks"
        )
    if not any(shares):
        reason = (
            f"is not below the largest distance without any mask, {worst}"
            if certificate.tolerance >= by_distance[-1].distance
            else f"is kept without a mask where it has to be; the largest distance is {worst}"
        )
        found.append(f"nothing is marked in any field: the tolerance of {tolerance} {reason}")
    if certificate.mask == "soft":
        found.append("the mask is soft, and Review draws binary ones only: calibrate for a binary mask to look at it")
    return found
