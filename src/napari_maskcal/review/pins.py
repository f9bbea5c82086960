"""What was pinned before: a tolerance that was chosen after others have been tried has to say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_maskcal.distance.registry import name_of

if TYPE_CHECKING:
    from napari_maskcal.calibrate.certificate import Certificate, Pin
    from napari_maskcal.calibrate.certify import Measured


def earlier_pins(earlier: Certificate, measured: Measured) -> tuple[Pin, ...]:
    """Return the pins of an earlier certificate, the oldest first, if it was made of the same measurements."""
    if not _same(earlier, measured):
        return ()
    return (*earlier.history, earlier.pin)


def _same(earlier: Certificate, measured: Measured) -> bool:
    """Whether networks, distance and the content of all fields are the same."""
    contents = [(one.sha256, one.name) for one in earlier.fields]
    return (
        earlier.fingerprint == measured.fingerprint
        and (earlier.distance, earlier.distance_identity, earlier.mask, earlier.intensity)
        == (name_of(measured.distance), measured.distance.identity, measured.mask, measured.intensity)
        and sorted(contents) == sorted((one.sha256, one.name) for one in measured.fields)
    )
