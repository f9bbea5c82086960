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
    help="Restoration network: a file (torch.export, TorchScript, ONNX, bioimage.io, .safetensors and others), a "
    ".maskcal bundle with its restorer, in commands the name under which an installed package announces one, 'demo' "
    "for the bundled one, or 'given' for images that another tool has restored. A mask model may bring its restorer.",
)  # fmt: skip
RESTORED = Parameter(
    name="restored", kind=str, default=None,
    help="Image that another tool restored, in the intensities of the input; for the restorer 'given'.",
)  # fmt: skip
UNCERTAINTY = Parameter(
    name="uncertainty", kind=str, default=None,
    help="Uncertainty map, above 0 and larger where less sure; for mask models whose map is given with the image.",
)  # fmt: skip
MASK_MODEL = Parameter(
    name="mask_model", kind=str, default="demo",
    help="Calibrated mask model: a .maskcal bundle, or 'demo' for the bundled one.",
)  # fmt: skip
TOLERANCE = Parameter(
    name="tolerance", kind=float, default=None, minimum=0.0, maximum=1e9, step=0.005,
    help="Largest error you accept outside the marked regions, in the unit of the certificate: a share of the plane's "
    "intensity range unless it was calibrated in raw intensities.",
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


# ---- calibration

DEGRADED_FOLDER = Parameter(
    name="degraded", kind=str, default=None,
    help="Folder, pattern or stack of degraded images, as the microscope gave them.",
)  # fmt: skip
TRUTH_FOLDER = Parameter(
    name="truth", kind=str, default=None,
    help="Folder, pattern or stack of clean images of the same fields, with the same file names.",
)  # fmt: skip
RESTORED_FOLDER = Parameter(
    name="restored", kind=str, default=None,
    help="Folder, pattern or stack of images that another tool restored, in the intensities of the degraded ones; for "
    "the restorer 'given'.",
)  # fmt: skip
UNCERTAINTY_FOLDER = Parameter(
    name="uncertainty", kind=str, default=None,
    help="Folder, pattern or stack of uncertainty maps, above 0 and larger where less sure; for the mask model "
    "'given'.",
)  # fmt: skip
MANIFEST = Parameter(
    name="manifest", kind=str, default=None,
    help="CSV or TSV table with the columns degraded, truth and, if you like, restored, uncertainty and group.",
)  # fmt: skip
GROUP = Parameter(
    name="group", kind=str, default=None,
    help="Regular expression that finds the specimen in the file name, such as (specimen\\d+); without it each file is "
    "a specimen of its own.",
)  # fmt: skip
CALIBRATION_MASK_MODEL = Parameter(
    name="mask_model", kind=str, default="residual",
    help="What says where the restored image is uncertain: a .maskcal bundle, 'demo', 'residual' or 'residual:5' "
    "(smoothed difference of restored and degraded, no training), 'augmentation', 'ensemble:FILE,FILE', "
    "'interval:LOWER,UPPER', 'given' for maps of another tool, or 'constant' (no map at all, to compare with).",
)  # fmt: skip
DISTANCE = Parameter(
    name="distance", kind=str, default="l1",
    help="How error is measured: l1 (mean absolute error), l2 (root mean square error), lP such as l3, linf (largest "
    "error), linf-blur2, lpips or ssim.",
)  # fmt: skip
INTENSITY = Parameter(
    name="intensity", kind=str, default="share", choices=("share", "raw"),
    help="Unit of errors: share of the degraded plane's intensity range, or the raw intensities of the images.",
)  # fmt: skip
CALIBRATION_TOLERANCE = Parameter(
    name="tolerance", kind=float, default=None, minimum=0.0, step=0.005,
    help="Largest error you accept outside the marked regions, in the unit of errors; fix it before you look at the "
    "fields.",
)  # fmt: skip
CALIBRATION_CONFIDENCE = Parameter(
    name="confidence", kind=float, default=0.9, minimum=0.0, maximum=1.0, step=0.01,
    help="Share of new specimens or fields for which the promise has to hold.",
)  # fmt: skip
GUARANTEE = Parameter(
    name="guarantee", kind=str, default="marginal", choices=("marginal", "pac", "expected"),
    help="marginal: a new specimen is within tolerance with the confidence, averaged over calibrations; pac: this very "
    "calibration keeps the confidence, but for the risk delta; expected: the mean error is within tolerance.",
)  # fmt: skip
DELTA = Parameter(
    name="delta", kind=float, default=None, minimum=0.0, maximum=1.0, step=0.01,
    help="For the guarantee pac: the risk that this calibration does not keep its confidence, such as 0.1.",
)  # fmt: skip
BOUND = Parameter(
    name="bound", kind=float, default=None, minimum=0.0, step=0.05,
    help="For the guarantee expected: the largest error that one specimen can count for, at least the tolerance.",
)  # fmt: skip
GROUPING = Parameter(
    name="grouping", kind=str, default="worst", choices=("worst", "one"),
    help="Several fields of one specimen: all of them count ('worst', the promise is for every field of a new "
    "specimen), or one that is drawn.",
)  # fmt: skip
SEED = Parameter(
    name="seed", kind=int, default=0, minimum=0, step=1,
    help="For the grouping 'one': which draw.",
)  # fmt: skip
MASK = Parameter(
    name="mask", kind=str, default="binary", choices=("binary", "soft"),
    help="binary: a pixel is believed or not, as the overlay draws it; soft: believed in part, which marks more.",
)  # fmt: skip
FIELD_PX = Parameter(
    name="field_px", kind=int, default=None, minimum=0, step=32,
    help="Cut each plane into square fields of this many pixels; without it a whole plane is one field.",
)  # fmt: skip
NOTE = Parameter(
    name="note", kind=str, default="",
    help="Where the calibration fields come from; it stands in the certificate.",
)  # fmt: skip
WITH_RESTORER = Parameter(
    name="with_restorer", kind=bool, default=False,
    help="Put the restorer into the bundle too, so that one file is all that is handed on; mind its licence.",
)  # fmt: skip


# ---- training

LOSS = Parameter(
    name="loss", kind=str, default="quantile", choices=("quantile", "likelihood", "score", "paper"),
    help="What the mask network learns. quantile: the range in which the truth lies; likelihood: how large the error "
    "is on average; score: its usual order of magnitude; paper: a mask that trades masked area against error, as "
    "published. quantile masked least on most tasks of the project's benchmark.",
)  # fmt: skip
STEPS = Parameter(
    name="steps", kind=int, default=2000, minimum=1, maximum=10_000_000, step=500,
    help="How long to train, in steps of 8 crops; training stops earlier when the masks get no smaller.",
)  # fmt: skip
CROP_PX = Parameter(
    name="crop_px", kind=int, default=128, minimum=8, maximum=65536, step=32,
    help="Side of the square crops it is trained on, in pixels; smaller images make smaller crops.",
)  # fmt: skip
TRAINING_SEED = Parameter(
    name="seed", kind=int, default=0, minimum=0, step=1,
    help="Decides which specimens are kept apart, and all that is random; the same seed gives the same network.",
)  # fmt: skip
TRAINING_TOLERANCE = Parameter(
    name="tolerance", kind=float, default=None, minimum=0.0, step=0.005,
    help="Largest error you accept outside the marked regions, as a share of the intensity range. With it, specimens "
    "are kept apart and the network is calibrated on them; without it, calibrate it later on others.",
)  # fmt: skip
TRAINING_CONFIDENCE = Parameter(
    name="confidence", kind=float, default=0.9, minimum=0.0, maximum=1.0, step=0.01,
    help="Share of new specimens for which the promise has to hold; the masks are judged at it.",
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
