"""OME-Zarr images, read lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_maskcal.read.image import Image, from_array

if TYPE_CHECKING:
    from pathlib import Path


def read_zarr(path: Path, *, axes: str | None = None) -> Image:
    """Return the full-resolution image of an OME-Zarr group, or a bare zarr array; pixels are read when needed.

    Raises
    ------
    ValueError
        If the folder is neither, or has no axes and `axes` is None.
    """
    import zarr

    try:
        node: Any = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:  # zarr has no common class for a folder it cannot open
        raise ValueError(f"{path} is not an OME-Zarr image: {error}") from error
    if isinstance(node, zarr.Array):
        if axes is None:
            raise ValueError(f"{path} is a bare zarr array of shape {node.shape}; name its axes, such as --axes ZYX")
        return from_array(node, axes=axes, name=path.stem)
    attributes = dict(node.attrs)
    attributes = attributes.get("ome", attributes)
    try:
        multiscale = attributes["multiscales"][0]
        dataset = multiscale["datasets"][0]
        stored = multiscale["axes"]
        named = (axes or "".join(axis["name"] for axis in stored)).upper()
        units = tuple(axis.get("unit", "pixel") for axis in stored)
        scale = next(t["scale"] for t in dataset["coordinateTransformations"] if t["type"] == "scale")
        data = node[dataset["path"]]
    except (KeyError, IndexError, TypeError, StopIteration, AttributeError) as error:
        raise ValueError(
            f"{path} is a zarr group without complete OME-Zarr metadata: multiscales with axes, datasets and "
            f"coordinateTransformations are needed; choose the folder of one image ({error!r})"
        ) from error
    return from_array(data, axes=named, scale=tuple(map(float, scale)), units=units, name=path.stem)
