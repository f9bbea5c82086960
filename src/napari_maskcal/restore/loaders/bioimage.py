"""bioimage.io: a network in a zip or a folder, with a description of what it takes and gives, ``rdf.yaml``.

Nothing is ever unpacked to disk, and nothing fetched: a package that keeps a part elsewhere is refused.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from napari_maskcal.read.pixel_size import pixel_size
from napari_maskcal.restore.loaders import bioimage_careamics
from napari_maskcal.restore.loaders.archives import entries
from napari_maskcal.restore.loaders.base import Said
from napari_maskcal.restore.loaders.bioimage_files import (
    DESCRIPTIONS,
    LARGEST_TEXT,
    Part,
    description_name,
    is_description,
    library_needed,
    parsed,
    read_rdf,
)
from napari_maskcal.restore.loaders.bioimage_steps import Affine, Steps, steps_of
from napari_maskcal.restore.loaders.careamics_model import from_careamics
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from functools import partial
    from pathlib import Path

    from torch import nn

_FORMATS = ("torchscript", "onnx", "pytorch_state_dict")
"""Of weights, the most self-contained first."""
_RATING = "_get_metadata_completeness"
_GRIDS = (1, 2, 4, 8, 16, 32, 64)


class BioimageIo:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    # It may hold TorchScript or source code; what it does hold is known only after its description is read.
    name, kind, extra, runs_code = "bioimage.io", "bioimageio", "bioimage", True

    def refusal(self, path: Path) -> str:
        """Return why `path` is no package, or empty."""
        if path.is_file() and entries(path) is None:
            return "" if is_description(path) else "no zip, and no description of a model"
        return "" if description_name(path) else f"no {DESCRIPTIONS[0]} in it"

    def said(self, path: Path) -> Said:
        """Return what the description says.

        Raises
        ------
        ValueError
            If it is damaged, or of a network that is not from one plane or volume to one.
        ImportError
            If bioimageio.spec is missing.
        """
        model = described(bioimage_careamics.completed(read_rdf(path)), where=path)
        image, _, steps = _understood(model, path)
        spatial = [axis for axis in image.axes if axis.type == "space"]
        factor, halo = _scale_and_halo(model, path, ["y", "x"])
        grid, smallest = _grid([axis.size for axis in spatial[-2:]])
        return Said(
            name=str(model.name),
            axes="YX" if len(spatial) == 2 else "ZYX",
            channels=_channels(image),
            scale_factor=factor,
            stride_px=grid,
            halo_px=halo,
            min_size_px=smallest,
            **_along_z(model, path, spatial),
            normalisation=steps.normalisation,
            pixel_size=pixel_size([axis.scale for axis in spatial], [str(axis.unit or "pixel") for axis in spatial]),
            licence="" if model.license is None else str(getattr(model.license, "source", model.license)),
            citation="; ".join(_cited(entry) for entry in model.cite),
        )

    def load(self, path: Path) -> nn.Module:
        """Return the network with the pointwise steps around it.

        Raises
        ------
        ValueError
            See `said`; also if a part is missing, kept elsewhere, or not the one that the description was written for.
        """
        content = read_rdf(path)
        model = described(bioimage_careamics.completed(content), where=path)
        _, batched, steps = _understood(model, path)
        weights = _weights(model, path)
        network = _network(weights, Part(path, *_source(weights, path, of=weights.type)))
        from napari_maskcal.restore.loaders.bioimage_network import Packaged

        after = (*steps.after, *_to_answers_range(content, model, steps, path))
        return Packaged(network, before=steps.before, after=after, batched=batched)


def _understood(model: Any, path: Path) -> tuple[Any, bool, Steps]:
    """Return the one input, whether it takes several images at once, and what is done around the network."""
    for side, many in (("takes", model.inputs), ("gives", model.outputs)):
        if len(many) != 1:
            named = ", ".join(str(one.id) for one in many)
            raise ValueError(f"{path} {side} {len(many)} images ({named}); a restorer takes one image and gives one")
    image, answer = model.inputs[0], model.outputs[0]
    for side, tensor in (("takes", image), ("gives", answer)):
        kinds, named = [axis.type for axis in tensor.axes], ", ".join(str(axis.id) for axis in tensor.axes)
        if kinds not in (["batch", "channel", *["space"] * count] for count in (2, 3)) or len(kinds) != len(image.axes):
            raise ValueError(
                f"{path} {side} images with the axes {named}; only planes and volumes can be used, batch, channel, y, "
                "x, with or without z before y, in and out alike"
            )
        spatial = [str(axis.id) for axis in tensor.axes[2:]]
        if spatial not in (["y", "x"], ["z", "y", "x"]):
            raise ValueError(
                f"{path} {side} images along {', '.join(spatial)}; only those along y, x or z, y, x can be"
            )
    taken, given = _channels(image), _channels(answer)
    if taken not in (1, 3) or given not in (1, taken):
        raise ValueError(f"{path} makes {given} channels of {taken}; only networks of 1 channel, or of 3, can be used")
    for axis in image.axes[2:]:
        if isinstance(axis.size, int):
            raise ValueError(f"{path} takes images of {axis.size} pixels along {axis.id} only, so it cannot be tiled")
        if not hasattr(axis.size, "step"):
            raise ValueError(
                f"{path} takes images whose {axis.id} depends on another axis; only free sizes can be used"
            )
    batched = all(tensor.axes[0].size is None for tensor in (image, answer))
    return image, batched, steps_of(image, answer, where=str(path))


def _channels(tensor: Any) -> int:
    return int(tensor.axes[1].size)


def _scale_and_halo(model: Any, path: Path, along: list[str]) -> tuple[int, int | None]:
    """Return how much the network enlarges along some axes, and the border that it says is wrong, in input pixels."""
    image, answer = model.inputs[0], model.outputs[0]
    taken = {str(axis.id): axis for axis in image.axes}
    factors, halos = set(), [0]
    for axis in answer.axes[2:]:
        if str(axis.id) not in along:
            continue
        size = axis.size
        if isinstance(size, int):
            raise ValueError(f"{path} always gives {size} pixels along {axis.id}; its answer has to follow its input")
        if str(getattr(size, "tensor_id", "")) != str(image.id) or str(size.axis_id) != str(axis.id):
            raise ValueError(f"{path} gives images whose {axis.id} does not follow that of its input")
        if size.offset:
            raise ValueError(f"{path} gives {size.offset:+d} pixels along {axis.id}; it has to keep all of the image")
        factors.add(taken[str(axis.id)].scale / axis.scale)
        halos.append(getattr(axis, "halo", 0))
    factor = factors.pop()
    if factors or factor != int(factor) or factor < 1:
        raise ValueError(f"{path} changes the size by {factor:g}; only whole numbers from 1 on can be used")
    return int(factor), -(-max(halos) // int(factor)) or None


def _along_z(model: Any, path: Path, spatial: list[Any]) -> dict[str, int | None]:
    """Return what is said of Z, where there is one."""
    if len(spatial) == 2:
        return {}
    factor, halo = _scale_and_halo(model, path, ["z"])
    if factor != 1:
        raise ValueError(
            f"{path} gives {factor} planes of one; only networks that keep the size of volumes can be used"
        )
    grid, smallest = _grid([spatial[0].size])
    return {"stride_z": grid, "halo_z": halo, "min_size_z": smallest}


def _grid(sizes: list[Any]) -> tuple[int | None, int]:
    """Return the step of the sizes that are taken, where it is a grid of its own, and the smallest size."""
    steps = {size.step for size in sizes}
    smallest = max(size.min for size in sizes)
    (step, *others) = steps
    on_grid = not others and step in _GRIDS and all(size.min % step == 0 for size in sizes)
    return (step if on_grid else None), smallest


def _to_answers_range(content: dict[str, Any], model: Any, steps: Steps, path: Path) -> tuple[Affine, ...]:
    """Return the step behind a network of CAREamics, whose answer may be in another range than its input."""
    if not bioimage_careamics.is_exported(content):
        return ()
    name = bioimage_careamics.CONFIGURATION
    entry = next(attached for attached in model.attachments if str(attached.source) == name)
    raw = Part(path, *_source(entry, path, of=name)).read_bytes(largest=LARGEST_TEXT)
    configuration = parsed(raw, f"{path}: {name}")
    return (bioimage_careamics.to_answers_range(configuration, steps.normalisation, path),)


def _cited(entry: Any) -> str:
    return " ".join(str(part) for part in (entry.text, entry.doi or entry.url) if part)


def _weights(model: Any, path: Path) -> Any:
    """Return the weights that can be run here and are in the package."""
    found = {name: getattr(model.weights, name, None) for name in _FORMATS}
    there = [entry for entry in found.values() if entry is not None]
    if not there:
        others = ", ".join(name for name, entry in model.weights if entry is not None)
        raise ValueError(f"{path} has weights of {others} only; those of {', '.join(_FORMATS)} can be run")
    return next((entry for entry in there if not _is_remote(entry.source)), there[0])


def _network(weights: Any, part: Part) -> nn.Module:
    """Return the network of weights in one of `_FORMATS`."""
    if weights.type == "onnx":
        from napari_maskcal.restore.loaders.onnx_model import LOADER as ONNX

        return ONNX.load(cast("Path", part))  # which is only read, and named in messages
    from napari_maskcal.restore.loaders.bioimage_network import script_network, state_network

    if weights.type == "torchscript":
        return script_network(part.read_bytes(), where=str(part))
    content = part.read_bytes()
    return state_network(_maker(weights.architecture, part.package), content, strict=weights.strict, where=str(part))


def _maker(architecture: Any, path: Path) -> partial[Any]:
    """Return what makes the network of a state dict: code of the package, or of a library."""
    from functools import partial

    from napari_maskcal.restore.loaders.bioimage_network import maker_in_library, maker_in_source

    name = str(architecture.callable)
    library = getattr(architecture, "import_from", None)
    if library is not None and str(library).partition(".")[0] == "careamics":
        return partial(from_careamics(str(library), name, where=path), **architecture.kwargs)
    if library is not None:
        return partial(maker_in_library(str(library), name, where=str(path)), **architecture.kwargs)
    part = Part(path, *_source(architecture, path, of="architecture"))
    source = part.read_bytes()
    sha256 = hashlib.sha256(source).hexdigest()
    return partial(maker_in_source(source, name, sha256=sha256, where=str(part)), **architecture.kwargs)


def _is_remote(source: Any) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(source)) is not None


def _source(entry: Any, path: Path, *, of: str) -> tuple[str, str | None]:
    """Return the name and the hash of a file that the description names.

    Raises
    ------
    ValueError
        If it is not in the package.
    """
    name = str(entry.source)
    if _is_remote(name):
        raise ValueError(f"{path} keeps its {of} at {name}; nothing is fetched: take the package with all its files")
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"{path} keeps its {of} at {name}, outside of the package")
    return str(pure), None if entry.sha256 is None else str(entry.sha256).lower()


def described(content: dict[str, Any], *, where: Path) -> Any:
    """Return a description as bioimageio.spec understands it, in its newest form; no file that it names is looked at.

    Raises
    ------
    ValueError
        If it is no valid description of a model by itself; `where` names it.
    ImportError
        If bioimageio.spec is missing.
    """
    try:
        from bioimageio.spec import InvalidDescr, ValidationContext, build_description
        from bioimageio.spec.model import ModelDescr_v0_4, ModelDescr_v0_5
    except ImportError:
        raise library_needed() from None
    for version in (ModelDescr_v0_4, ModelDescr_v0_5):
        _rate_or_leave_it(version)
    # With it the library would look up another model in the net, whatever it is told.
    if any(isinstance(one, dict) and one.get("output_of") for one in _listed(content.get("inputs"))):
        raise ValueError(f"{where} takes what another model gives (output_of); only a network by itself can be used")
    context = ValidationContext(root=where.parent.absolute(), perform_io_checks=False, log_warnings=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of older versions that are brought up to date
            model: Any = build_description(content, context=context, format_version="latest")
    except Exception as error:  # noqa: BLE001 - its converters raise whatever they trip over
        raise ValueError(f"{where} has a description that cannot be read: {first_line(error)}") from None
    if isinstance(model, InvalidDescr):
        raise ValueError(f"{where} has a description that is not valid: {_first_fault(model)}")
    return model


def _rate_or_leave_it(description: Any) -> None:
    """Let a description be read where the library cannot rate how complete it is.

    bioimageio.spec up to 0.5.12, which bioimageio.core 0.11 insists on, does that in a way that pydantic refuses from
    2.14 on, and so took no description of a model at all.
    """
    rate = getattr(description, _RATING, None)
    if rate is None or getattr(rate, "may_fail", False):
        return

    def rated(self: Any) -> float:
        try:
            return float(rate(self))
        except Exception:  # noqa: BLE001 - the number is for the library's own report, which is not shown
            return 0.0

    marked: Any = rated
    marked.may_fail = True
    setattr(description, _RATING, marked)


def _first_fault(model: Any) -> str:
    faults = [fault for detail in model.validation_summary.details for fault in detail.errors]
    if not faults:
        return "it gives no reason"
    where = ".".join(str(part) for part in faults[-1].loc)
    return first_line(ValueError(f"{where}: {faults[-1].msg}"))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


LOADER = BioimageIo()
