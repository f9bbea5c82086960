"""Weights without a program, ``.pth`` or ``.safetensors``, of the many architectures that spandrel knows by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_maskcal.read.names import shown
from napari_maskcal.restore.loaders.base import Said, needed
from napari_maskcal.restore.loaders.careamics_model import is_careamics
from napari_maskcal.restore.loaders.checkpoint import read_checkpoint, state_of, weights_format
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

_REMEDY = "export the network as TorchScript or ONNX instead, which bring their program"


class Spandrel:
    """See `napari_maskcal.restore.loaders.base.Loader`.

    What spandrel says of tiling is not used: whether an answer depends on the whole plane shows in a trial run.
    """

    name, kind, extra, runs_code = "PyTorch weights", "spandrel", "spandrel", False

    def refusal(self, path: Path) -> str:
        """Return why `path` is no file of weights, or empty; which network they are of is seen when it is loaded."""
        if not weights_format(path):
            return "no file of weights alone"
        return "a checkpoint of CAREamics" if is_careamics(path) else ""

    def said(self, path: Path) -> Said:
        """Return what the architecture needs.

        Raises
        ------
        ValueError
            If the weights are of none that can be used.
        """
        model = _descriptor(path)
        return Said(
            name=f"{path.stem} ({model.architecture.name})",
            channels=model.input_channels,
            scale_factor=model.scale,
            stride_px=model.size_requirements.multiple_of,
            min_size_px=max(model.size_requirements.minimum, 1),
        )

    def load(self, path: Path) -> nn.Module:
        """Return the network, for images between 0 and 1."""
        from napari_maskcal.restore.loaders.spandrel_network import Called, takes_batches

        model = _descriptor(path)
        call: Any = model._call_fn  # noqa: SLF001 - the public call cuts off what is above 1
        needs = model.size_requirements
        batched = takes_batches(
            model.model, call, channels=model.input_channels, multiple_px=needs.multiple_of, least_px=needs.minimum
        )
        return Called(model.model, call, batched=batched)


def _descriptor(path: Path) -> Any:
    """Return the network with what spandrel knows of it."""
    spandrel = _spandrel()
    state = state_of(read_checkpoint(path), path)
    _check_names(state, path)
    try:
        model = spandrel.ModelLoader("cpu").load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        raise ValueError(
            f"{path} has {len(state)} weights ({', '.join(map(shown, list(state)[:3]))}, ...) of an architecture that "
            f"spandrel does not know; {_REMEDY}"
        ) from None
    except Exception as error:  # noqa: BLE001 - each architecture has its own complaints
        reason = first_line(error) or type(error).__name__
        raise ValueError(f"{path}: its weights fit no network that spandrel can build: {reason}") from None
    _check_usable(model, spandrel, path)
    model.model.float().eval().requires_grad_(False)
    return model


def _check_usable(model: Any, spandrel: Any, path: Path) -> None:
    name = f"{path}, a network of the architecture {model.architecture.name},"
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise ValueError(f"{name} takes a mask with the image; a restorer takes one image")
    if model.purpose not in ("SR", "Restoration"):
        raise ValueError(f"{name} is for {model.purpose}; only networks for any image can be used")
    if model.input_channels not in (1, 3):
        raise ValueError(f"{name} takes {model.input_channels} channels; only networks of 1 or 3 can be used")
    if model.output_channels not in (1, model.input_channels):
        raise ValueError(f"{name} makes {model.output_channels} channels of {model.input_channels}")
    if model.size_requirements.square:
        raise ValueError(f"{name} takes square images only")


def _check_names(state: dict[str, Tensor], path: Path) -> None:
    """Refuse names that would have more layers made than there are weights: spandrel counts by the largest number."""
    most = 10 * len(state) + 100
    for name in state:
        if any(part.isdigit() and (len(part) > 9 or int(part) > most) for part in name.split(".")):
            raise ValueError(f"{path} names a layer {shown(name)}, but has {len(state)} weights only")


def _spandrel() -> Any:
    from napari_maskcal.restore.torchvision_import import import_torchvision

    try:
        import_torchvision()
        import spandrel
    except ImportError:
        raise needed("spandrel", extra="spandrel", file_format="PyTorch weights") from None
    return spandrel


LOADER = Spandrel()
