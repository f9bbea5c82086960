"""Where tiles of planes and of volumes lie: pure geometry, no pixel is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, isqrt

HELD_VOXELS = 2**27
"""Of a slab of a volume, if that leaves `LEAST_DEPTH`: its planes are held in memory."""
LEAST_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Tile:
    """One piece of a plane, as (y, x) slices on the degraded grid.

    Attributes
    ----------
    read
        What goes into the network, halo included; all tiles of a plan have the same size.
    write
        What it is responsible for. The `write` parts of a plan cover the padded plane once.
    """

    read: tuple[slice, slice]
    write: tuple[slice, slice]

    def keep(self, factor: int = 1) -> tuple[slice, slice]:
        """Return the slices of the network's output that `write` takes, `factor` output pixels to an input pixel."""
        y, x = (
            slice(factor * (w.start - r.start), factor * (w.stop - r.start))
            for r, w in zip(self.read, self.write, strict=True)
        )
        return y, x

    def target(self, factor: int = 1) -> tuple[slice, slice]:
        """Return `write` on the restored grid."""
        y, x = (slice(factor * w.start, factor * w.stop) for w in self.write)
        return y, x


@dataclass(frozen=True, slots=True)
class Plan:
    """All tiles of a plane of one shape.

    Attributes
    ----------
    padded_shape
        The plane's shape after padding its far ends to a multiple of the stride.
    tile_shape
        Size of every `Tile.read`.
    halo_ratio
        Pixels read over pixels of the plane: what the halo costs.
    """

    shape: tuple[int, int]
    padded_shape: tuple[int, int]
    tile_shape: tuple[int, int]
    tiles: tuple[Tile, ...]

    @property
    def halo_ratio(self) -> float:
        """Pixels read over pixels of the plane."""
        read = len(self.tiles) * self.tile_shape[0] * self.tile_shape[1]
        return read / (self.shape[0] * self.shape[1])


def plan_tiles(shape: tuple[int, int], *, max_tile_px: int, halo_px: int | None, stride_px: int) -> Plan:
    """Cut a plane into tiles of one size, as few and as even as `max_tile_px` allows.

    Parameters
    ----------
    shape
        (Y, X) of the plane.
    max_tile_px
        Largest `Tile.read` along an axis; a tile is larger only where the halo leaves no room.
    halo_px
        Radius of the receptive field; None never cuts.
    stride_px
        Tiles start at multiples of it, because a strided network gives other values on a shifted grid.

    Notes
    -----
    At the plane's border a tile begins where the plane does, so the network's own padding acts where it
    would on the whole plane. The last tile is moved inward instead of being padded: one size, and every
    output pixel sees what it would see in the whole plane.
    """
    axes = [_plan_axis(n, max_tile_px=max_tile_px, halo_px=halo_px, stride_px=stride_px) for n in shape]
    tiles = tuple(
        Tile(read=(y_read, x_read), write=(y_write, x_write))
        for (y_read, y_write), (x_read, x_write) in product(axes[0], axes[1])
    )
    padded_y, padded_x = (spans[-1][0].stop for spans in axes)
    tile_y, tile_x = (spans[0][0].stop for spans in axes)
    return Plan(shape, (padded_y, padded_x), (tile_y, tile_x), tiles)


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """All tiles of a volume of one shape: slabs along Z, and in each slab the same pieces along Y and X.

    Attributes
    ----------
    shape, padded_shape
        (Z, Y, X), and the same after padding the far ends to multiples of the strides.
    z, y, x
        What is read along an axis, and what is written of it; see `Tile`.
    halo_z, stride_z, least_z
        Along Z, in planes; a halo of None is never cut.
    """

    shape: tuple[int, int, int]
    padded_shape: tuple[int, int, int]
    z: list[tuple[slice, slice]]
    y: list[tuple[slice, slice]]
    x: list[tuple[slice, slice]]
    halo_z: int | None
    stride_z: int
    least_z: int

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Size of the largest tile."""
        z, y, x = (spans[0][0].stop for spans in (self.z, self.y, self.x))
        return z, y, x

    def slab_of(self, z: int) -> int:
        """Return the number of the slab that writes a plane."""
        return next(number for number, (_, write) in enumerate(self.z) if write.start <= z < write.stop)

    def narrowed(self, number: int, first: int, stop: int) -> tuple[slice, slice]:
        """Return what is read and written of a slab for its planes from `first` to before `stop` alone."""
        whole, _ = self.z[number]
        if self.halo_z is None:
            return whole, slice(first, stop)
        start = max(0, first - self.halo_z) // self.stride_z * self.stride_z
        end = min(whole.stop, max(_up(stop + self.halo_z, self.stride_z), start + _up(self.least_z, self.stride_z)))
        if end - start < self.least_z:
            start = max(whole.start, (end - self.least_z) // self.stride_z * self.stride_z)
        return slice(start, end), slice(first, stop)


def plan_volume(
    shape: tuple[int, int, int],
    *,
    most_voxels: int,
    halo: tuple[int, int] | None,
    stride: tuple[int, int],
    least: tuple[int, int],
) -> VolumePlan:
    """Cut a volume into slabs, and these into tiles of at most so many voxels, if the halo leaves room.

    Parameters
    ----------
    shape
        (Z, Y, X).
    halo, stride, least
        Reach, grid and smallest size of the network: along Z, and along Y and X. A halo of None never cuts.
    """
    halo_z, halo_px = halo or (None, None)
    room = round(most_voxels ** (1 / 3))
    depth = max(4 * (halo_z or 0), least[0], min(room, max(LEAST_DEPTH, HELD_VOXELS // (shape[1] * shape[2]))))
    z = _plan_axis(shape[0], max_tile_px=depth, halo_px=halo_z, stride_px=stride[0])
    side = max(4 * (halo_px or 0), least[1], isqrt(most_voxels // z[0][0].stop))
    y, x = (_plan_axis(n, max_tile_px=side, halo_px=halo_px, stride_px=stride[1]) for n in shape[1:])
    ends = (spans[-1][0].stop for spans in (z, y, x))
    return VolumePlan(shape, (next(ends), next(ends), next(ends)), z, y, x, halo_z, stride[0], least[0])


def smallest_tile_px(*, halo_px: int, stride_px: int) -> int:
    """Return the smallest tile worth reading: half of it is halo."""
    return _up(4 * halo_px, stride_px) or stride_px


def _plan_axis(n: int, *, max_tile_px: int, halo_px: int | None, stride_px: int) -> list[tuple[slice, slice]]:
    padded = _up(n, stride_px)
    if halo_px is None or padded <= max_tile_px:
        return [(slice(0, padded), slice(0, padded))]
    halo = _up(halo_px, stride_px)
    step_most = max(max_tile_px // stride_px * stride_px - 2 * halo, stride_px)
    count = ceil((padded - 2 * halo) / step_most)
    if count <= 1:
        return [(slice(0, padded), slice(0, padded))]
    size = _up(ceil((padded + 2 * halo * (count - 1)) / count), stride_px)
    starts = [min(i * (size - 2 * halo), padded - size) for i in range(count)]
    edges = [0, *(start + halo for start in starts[1:]), padded]
    return [
        (slice(start, start + size), slice(first, last))
        for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True)
    ]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
