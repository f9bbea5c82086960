"""Every parameter a user can set, once: the command line and the docks are built from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One thing a user can set.

    Attributes
    ----------
    name
        Python name; the command line shows it with dashes.
    kind
        `float`, `int` or `str`.
    default
        The value that is used when the user says nothing. None: taken from the certificate or the image.
    help
        One sentence, shown as tooltip and in ``--help``.
    choices
        The allowed values, where they form a closed list.
    minimum, maximum, step
        Range and step that the widgets offer, wide enough for a wrong value to be typed and answered with
        the reason: the core checks values, not the widget.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: Sequence[str] = ()
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None

    @property
    def flag(self) -> str:
        """The command-line spelling, such as ``--mask-model``."""
        return "--" + self.name.replace("_", "-")


RESTORER = Parameter(
    name="restorer", kind=str, default="demo",
    help="Restoration network: a .safetensors file written by napari-maskcal, or 'demo' for the bundled one.",
)  # fmt: skip
MASK_MODEL = Parameter(
    name="mask_model", kind=str, default="demo",
    help="Calibrated mask model: a .maskcal bundle, or 'demo' for the bundled one.",
)  # fmt: skip
TOLERANCE = Parameter(
    name="tolerance", kind=float, default=None, minimum=0.0, maximum=1.0, step=0.005,
    help="Largest error you accept outside the marked regions, as a share of the plane's intensity range.",
)  # fmt: skip
CONFIDENCE = Parameter(
    name="confidence", kind=float, default=None, minimum=0.0, maximum=1.0, step=0.01,
    help="Share of new specimens or fields for which the promise has to hold.",
)  # fmt: skip
DEVICE = Parameter(
    name="device", kind=str, default="auto",
    help="Where the networks run: auto, cpu, cuda:0 (or another number) or mps.",
)  # fmt: skip
AXES = Parameter(
    name="axes", kind=str, default=None,
    help="What the image's axes are, one letter each, such as ZYX or TCZYX.",
)  # fmt: skip
CHANNEL = Parameter(
    name="channel", kind=int, default=None, minimum=-1, step=1,
    help="Which channel to restore, counted from 0, when the image has a channel axis.",
)  # fmt: skip
REGION = Parameter(
    name="region", kind=str, default="all planes", choices=("current plane", "all planes"),
    help="Restore the plane you are looking at, or every plane of the stack.",
)  # fmt: skip


def check_tolerance(tolerance: float) -> float:
    """Return `tolerance`, or say why it is none.

    Raises
    ------
    ValueError
        If it is not a positive, finite number.
    """
    if not (isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance is {tolerance:g}; give a number above 0, such as 0.05")
    return float(tolerance)


def check_confidence(confidence: float) -> float:
    """Return `confidence`, or say why it is none.

    Raises
    ------
    ValueError
        If it does not lie strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence:g}; give a number between 0 and 1, such as 0.9")
    return float(confidence)
