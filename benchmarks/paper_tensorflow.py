"""Run by the Python of a scratch environment that has TensorFlow: the pairs and the networks of tk_r_em.

``pairs FOLDER OUT``: write the test pairs of FOLDER, name -> (8, 1, 256, 256), as ``KIND_x`` and ``KIND_y``.
``restore FOLDER IN OUT``: IN has ``KIND``: (N, Y, X), raw intensities; write what the network of that kind makes of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

BATCH = 4


def write_pairs(folder: Path, out: Path) -> None:
    """Write the pairs of those kinds that have a truth."""
    import h5py

    arrays = {}
    for path in sorted((folder / "test_data").glob("sfr_*.h5")):
        with h5py.File(path) as file:
            if "y" in file:
                kind = path.stem.removeprefix("sfr_")
                arrays |= {f"{kind}_x": file["x"][:], f"{kind}_y": file["y"][:]}
    np.savez(out, **arrays)


def restore(folder: Path, given: Path, out: Path) -> None:
    """Write the restored images."""
    import tensorflow as tf

    found = {}
    for kind, images in np.load(given, allow_pickle=False).items():
        network = tf.saved_model.load(str(folder / "models" / f"sfr_{kind}")).signatures["serving_default"]
        parts = [images[i : i + BATCH, ..., None] for i in range(0, len(images), BATCH)]
        found[kind] = np.concatenate([network(tf.constant(part))["gen_r_em_out"].numpy()[..., 0] for part in parts])
        print(f"electron-microscopy: {len(images)} images of kind {kind} restored", file=sys.stderr, flush=True)
    np.savez(out, **found)


if __name__ == "__main__":
    command, *places = sys.argv[1:]
    {"pairs": write_pairs, "restore": restore}[command](*map(Path, places))
