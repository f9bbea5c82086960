"""Mask networks as bioimage.io packages: for other programs, which know nothing of certificates."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.bundle import mask_weights
from napari_maskcal.calibrate.words import promise_sentence
from napari_maskcal.read.atomic import write_atomically
from napari_maskcal.restore.card import nested
from napari_maskcal.restore.loaders.bioimage import described
from napari_maskcal.restore.loaders.bioimage_files import library_needed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from napari_maskcal.models import MaskModel
    from napari_maskcal.restore.card import Normalisation

_VERSION = "0.5.4"  # of the format: programs read it from there on
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes
_EPS = 1e-12  # the format wants a number above 0 added to the span
_LEAST_TEST_PX = 64
_LONGEST = 1024  # of a description
_METHOD = {
    "text": "Kutiel, Cohen, Elad, Freedman, What's Behind the Mask: Estimating Uncertainty in Image-to-Image Problems",
    "doi": "10.48550/arXiv.2211.15211",
}
_ONLY_HERE = (
    "A promise holds only inside napari-maskcal, which checks that the restorer, the intensities and the tiles are "
    "those of the calibration."
)


def export_mask(mask_model: MaskModel, path: Path, *, authors: Sequence[str], licence: str = "") -> None:
    """Write a mask network as a bioimage.io package: degraded and restored image -> uncertainty.

    It is TorchScript where that gives what the network gives at all sizes, and else weights for this package's own
    architecture, which has to be installed then. An existing file is replaced only by a complete one.

    Parameters
    ----------
    mask_model
        Of planes of one channel. Its certificate is told in words; no other program can keep it.
    path
        Of the zip.
    authors
        Names, at least one.
    licence
        An identifier of SPDX, such as ``"CC-BY-4.0"``; that of the model card if empty.

    Raises
    ------
    ValueError
        If the network is one that such a package cannot hold, or the file cannot be written.
    ImportError
        If bioimageio.spec is missing.

    Notes
    -----
    The format has a halo for the one input that an output's size follows, and reference implementations widen only
    that input. With two inputs they would fall out of step, so the halo is told in words and in ``config``.
    """
    network = _exportable(mask_model, authors)
    kind, weights, batched = _weights(mask_model, network)
    tensors = _test_tensors(mask_model, network)
    files = {f"{name}.npy": _npy(array) for name, array in tensors.items()}
    files |= {"weights.pt": weights, "README.md": _readme(mask_model).encode()}
    entry: dict[str, Any] = {**_file("weights.pt", files), **_weights_words(mask_model, kind)}
    content = {
        "format_version": _VERSION,
        "type": "model",
        "name": _name(mask_model.card.name),
        "description": _description(mask_model),
        "authors": [{"name": name.replace("/", " ").replace("\\", " ")} for name in authors],
        "cite": [_METHOD],
        "documentation": "README.md",
        "tags": ["uncertainty", "image-restoration", "2d", "pytorch"],
        "inputs": [_input("degraded", mask_model, files, batched), _input("restored", mask_model, files, batched)],
        "outputs": [_output(files, batched)],
        "weights": {kind: entry},
        "config": {"napari_maskcal": {"halo_px": mask_model.card.halo_px, "mask_sha256": mask_model.sha256}},
    }
    if licence := licence or mask_model.card.licence:
        content["license"] = _checked_licence(licence)
    described(content, where=path)
    write_atomically(path, _zip({"rdf.yaml": _yaml(content), **files}))


def _exportable(mask_model: MaskModel, authors: Sequence[str]) -> nn.Module:
    """Return the network, once it is seen to be one that such a package can hold."""
    card = mask_model.card
    if mask_model.network is None:
        raise ValueError(f"{card.name} has no network: its map is given with the image; there is nothing to export")
    if card.asks_restorer:
        raise ValueError(
            f"{card.name} runs the restorer again, for turned views, and no package can hold that; export one that "
            "looks at the images alone"
        )
    if any(spec.get("channels", 1) != 1 or spec.get("dims", 2) != 2 for spec in nested(card.network)):
        raise ValueError(f"{card.name} is a network for volumes or colours; only those for planes can be exported")
    if not authors or not all(name.strip() for name in authors):
        raise ValueError("a bioimage.io package names its authors; give at least one, and none without a name")
    return copy.deepcopy(mask_model.network).cpu().eval()  # a run may have left it on another device


def _weights(mask_model: MaskModel, network: nn.Module) -> tuple[str, bytes, bool]:
    """Return the format of the weights, their file, and whether several images may go in at once."""
    import torch

    for batched in (True, False):
        script = _traced(mask_model, network, batched=batched)
        if script is not None:
            buffer = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                save: Any = torch.jit.save
                save(script, buffer)
            return "torchscript", buffer.getvalue(), batched
    from safetensors.torch import load

    buffer = io.BytesIO()
    torch.save(load(mask_weights(network)), buffer)
    return "pytorch_state_dict", buffer.getvalue(), True


def _traced(mask_model: MaskModel, network: nn.Module, *, batched: bool) -> Any:
    """Return the network as TorchScript, or None where it answers otherwise at a size that it was not traced at."""
    import torch

    size = _test_size(mask_model)
    shapes = [(size, size), (size + mask_model.card.stride_px, size), (size, 2 * size)]
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # that a size became a number; what that does is tried below
            trace: Any = torch.jit.trace
            script = trace(network, _random_pair((1, *shapes[0])), check_trace=False)
            for shape in ((count, *size) for size in shapes for count in ((1, 2) if batched else (1,))):
                pair = _random_pair(shape)
                if not torch.allclose(script(*pair), network(*pair), rtol=1e-5, atol=1e-7):
                    return None
    except Exception:  # noqa: BLE001 - whatever cannot be traced has its own way of failing
        return None
    return script


def _random_pair(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return two images, as different from one another as a residual is."""
    import torch

    count, height, width = shape
    generator = torch.Generator().manual_seed(height + width)
    degraded = torch.rand(count, 1, height, width, generator=generator)
    return degraded, degraded + 0.1 * torch.randn(count, 1, height, width, generator=generator)


def _weights_words(mask_model: MaskModel, kind: str) -> dict[str, Any]:
    import torch

    words: dict[str, Any] = {"pytorch_version": re.split(r"[^\d.]", torch.__version__)[0].strip(".")}
    if kind == "pytorch_state_dict":
        words["architecture"] = {
            "import_from": "napari_maskcal.restore.kinds",
            "callable": "make_network",
            "kwargs": {"spec": mask_model.card.network, "role": "mask"},
        }
    return words


def _test_size(mask_model: MaskModel) -> int:
    stride = mask_model.card.stride_px
    return -(-max(_LEAST_TEST_PX, mask_model.card.min_size_px) // stride) * stride


def _test_tensors(mask_model: MaskModel, network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return two images in counts of a camera, and the uncertainty that the package has to give."""
    import torch

    size = _test_size(mask_model)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    clean = 100 + 60 * np.sin(x / 9) * np.cos(y / 7)
    degraded = rng.poisson(clean).astype(np.float32)[None, None]
    restored = (clean + rng.normal(0, 2, clean.shape)).astype(np.float32)[None, None]
    offset, span = _scale(mask_model.card.normalisation, degraded)
    pair = [torch.from_numpy(((image - offset) / span).astype(np.float32)) for image in (degraded, restored)]
    with torch.inference_mode():
        uncertainty: NDArray[np.float32] = network(*pair).numpy()
    return {"degraded": degraded, "restored": restored, "uncertainty": uncertainty}


def _scale(normalisation: Normalisation, image: NDArray[np.float32]) -> tuple[float, float]:
    """Return offset and span as the format has them: its percentiles lie between two pixels."""
    shares = [normalisation.low_percentile, normalisation.high_percentile]
    low, high = np.percentile(image.astype(np.float64), shares)
    return float(low), float(high - low)


def _preparation(normalisation: Normalisation, name: str) -> list[dict[str, Any]]:
    to_float = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    low, high = normalisation.low_percentile, normalisation.high_percentile
    kwargs: dict[str, Any] = {"axes": ["channel", "y", "x"], "min_percentile": low, "max_percentile": high, "eps": _EPS}
    if name != "degraded":
        kwargs["reference_tensor"] = "degraded"
    return [to_float, {"id": "scale_range", "kwargs": kwargs}, to_float]


def _input(name: str, mask_model: MaskModel, files: dict[str, bytes], batched: bool) -> dict[str, Any]:
    card = mask_model.card
    least = -(-card.min_size_px // card.stride_px) * card.stride_px
    free = {"min": least, "step": card.stride_px}
    sizes = {axis: free if name == "degraded" else {"tensor_id": "degraded", "axis_id": axis} for axis in "yx"}
    return {
        "id": name,
        "axes": _axes(sizes, batched),
        "data": {"type": "float32"},
        "preprocessing": _preparation(card.normalisation, name),
        "test_tensor": _file(f"{name}.npy", files),
    }


def _output(files: dict[str, bytes], batched: bool) -> dict[str, Any]:
    return {
        "id": "uncertainty",
        "description": "larger is less sure, in shares of the degraded image's intensity range",
        "axes": _axes({axis: {"tensor_id": "degraded", "axis_id": axis} for axis in "yx"}, batched),
        "data": {"type": "float32"},
        "test_tensor": _file("uncertainty.npy", files),
    }


def _axes(sizes: dict[str, Any], batched: bool) -> list[dict[str, Any]]:
    batch: dict[str, Any] = {"type": "batch"} if batched else {"type": "batch", "size": 1}
    space = [{"type": "space", "id": axis, "size": size} for axis, size in sizes.items()]
    return [batch, {"type": "channel", "channel_names": ["intensity"]}, *space]


def _file(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _name(name: str) -> str:
    """Return a name of the letters that the format allows."""
    kept = " ".join(re.sub(r"[^A-Za-z0-9_+\-() ]", " ", name).split())[:100]
    return kept if len(kept) >= 5 else f"mask network {kept}".strip()


def _description(mask_model: MaskModel) -> str:
    use = (
        "Says how unsure each pixel of a restored image is, from the degraded and the restored image: both in the same "
        "intensity units and on the same grid."
    )
    whole = f"{use} {_promise(mask_model)}"
    return whole if len(whole) <= _LONGEST else f"{use} {_ONLY_HERE} See README.md."


def _promise(mask_model: MaskModel) -> str:
    certificate = mask_model.certificate
    if certificate is None:
        return f"It was not calibrated, so no threshold of it promises anything. {_ONLY_HERE}"
    return (
        f"Inside napari-maskcal it was calibrated, with the threshold {certificate.threshold:.6g} "
        f"({certificate.mask} mask): {promise_sentence(certificate)} {_ONLY_HERE}"
    )


def _readme(mask_model: MaskModel) -> str:
    card = mask_model.card
    reach = "unbounded, so planes are not to be cut" if card.halo_px is None else f"{card.halo_px} pixels"
    cited = f"\nCite: {card.citation}\n" if card.citation else ""
    return f"""# {card.name}

{_description(mask_model)}

Sizes are multiples of {card.stride_px} pixels, from {card.min_size_px} on. A pixel's uncertainty depends on what lies
around it; that reach is {reach}. Where a plane is cut into tiles, both images have to be given with that border.
{cited}
## Validation

{_promise(mask_model)} Whoever sets a threshold elsewhere has to find out by images with a known truth what it is worth.
"""


def _checked_licence(licence: str) -> str:
    try:
        from bioimageio.spec.utils import get_spdx_licenses
    except ImportError:
        raise library_needed() from None
    if licence not in {entry["licenseId"] for entry in get_spdx_licenses()["licenses"]}:
        raise ValueError(f"the licence {licence!r} is no identifier of SPDX, such as CC-BY-4.0; give licence=...")
    return licence


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _yaml(content: dict[str, Any]) -> bytes:
    try:
        from bioimageio.spec.utils import write_yaml
    except ImportError:
        raise library_needed() from None
    text = io.StringIO()
    write_yaml(json.loads(json.dumps(content)), text)  # or what is said twice becomes a reference
    return text.getvalue().encode()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
