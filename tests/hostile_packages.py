"""Hostile packages of bioimage.io, and hostile files with weights."""

from __future__ import annotations

import io
import json
import os
import zipfile
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

import bioimage_packages as packages
from hostile_files import DEEP, MARKER, SLIPS, Hostile, Payload, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[[Path], Any]
    Files = dict[str, bytes]

REMOTE = "http://127.0.0.1:9/weights.bin"  # where nobody answers


# bioimage.io


@cache
def honest_script_package() -> Files:
    return packages.files_of(packages.network())


@cache
def honest_source_package() -> Files:
    return packages.files_of(packages.own_network(), "pytorch_state_dict")


def zip_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def described(files: Files, change: Callable[[dict[str, Any]], Any]) -> Files:
    """Return a package with its description changed."""
    content = json.loads(files["rdf.yaml"])
    change(content)
    return files | {"rdf.yaml": json.dumps(content).encode()}


def package(change: Callable[[Files, Path], Files], honest: Callable[[], Files] = honest_script_package) -> Make:
    """Return what writes a zip of a package that `change` made of an honest one."""
    return lambda path: path.write_bytes(zip_of(change(honest(), path)))


def entry_of(content: dict[str, Any]) -> dict[str, Any]:
    (entry,) = content["weights"].values()
    return entry


def with_weights(files: Files, content: bytes) -> Files:
    """Return a package with any bytes for weights, and the hash that fits."""
    changed = described(files, lambda d: entry_of(d).update(sha256=packages.sha256(content)))
    return changed | {"weights.bin": content}


def with_code(files: Files, path: Path, *, fits: bool) -> Files:
    """Return a package whose source makes the marker; its hash may fit."""
    source = files["net.py"] + f"\nopen({str(path.parent / MARKER)!r}, 'w').close()\n".encode()
    if fits:
        own = {"sha256": packages.sha256(source)}
        files = described(files, lambda d: entry_of(d)["architecture"].update(own))
    return files | {"net.py": source}


def with_source(name: str) -> Make:
    return package(lambda files, path: described(files, lambda d: entry_of(d).update(source=name)))


def saved(content: Any, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def poisoned_pickle(path: Path) -> bytes:
    return saved({"weight": torch.zeros(2), "more": Payload(path.parent / MARKER, True)})


def of_volumes(content: dict[str, Any]) -> None:
    for side in ("inputs", "outputs"):
        axes = content[side][0]["axes"]
        axes.insert(2, axes[2] | {"id": "z"})


def of_huge_planes(content: dict[str, Any]) -> None:
    for axis in content["inputs"][0]["axes"][2:]:
        axis["size"] = {"min": 10**15, "step": 10**15}


DESCRIPTIONS: dict[str, tuple[bytes, str]] = {
    "not-utf-8": (b"format_version: 0.5.4\ntype: model\nname: '\xff\xfe'\n", "not UTF-8"),
    "no-yaml": (b"format_version: 0.5.4\ntype: model\nname: [\n", "not valid YAML"),
    "tag": (b"format_version: 0.5.4\ntype: model\nname: !!python/object/apply:os.system ['touch sprung']\n", ""),
    "aliases": (
        b"format_version: 0.5.4\ntype: model\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 12)),
        "values, more than a description has",
    ),
    "deep": (b"format_version: 0.5.4\ntype: model\nname: " + b"[" * DEEP, ""),
    "long": (b"format_version: 0.5.4\ntype: model\nname: " + b"x" * 2**23, "MiB, more than"),
    "empty": (b"", ""),
    "dataset": (b"format_version: 0.3.0\ntype: dataset\n", "no model"),
}
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "volumes": (of_volumes, "whose z does not follow"),
    "huge-planes": (of_huge_planes, ""),
    "17-channels": (
        lambda d: d["inputs"][0]["axes"][1].update(channel_names=[f"c{i}" for i in range(17)]), "channels of 17"
    ),
    "wrong-hash": (lambda d: entry_of(d).update(sha256="0" * 64), "SHA-256"),
    "unknown-step": (lambda d: d["inputs"][0].update(preprocessing=[{"id": "os.system", "kwargs": {}}]), ""),
    "output-of": (lambda d: d["inputs"][0].update(output_of=REMOTE), ""),
    "no-weights": (lambda d: d.update(weights={}), ""),
}  # fmt: skip


def link_in_folder(path: Path) -> None:
    packages.folder(path, honest_script_package())
    (path / "weights.bin").rename(path.parent / "elsewhere.bin")
    (path / "weights.bin").symlink_to("../elsewhere.bin")


def pipe_in_folder(path: Path) -> None:
    packages.folder(path, honest_script_package())
    (path / "weights.bin").unlink()
    os.mkfifo(path / "weights.bin")


def bioimage_packages() -> Iterator[Hostile]:
    for name, (content, says) in DESCRIPTIONS.items():
        make = package(partial(lambda files, _, content: files | {"rdf.yaml": content}, content=content))
        yield Hostile(name=f"rdf-{name}.zip", make=make, says=says, trusted=True)
    for name, (change, says) in CHANGES.items():
        make = package(partial(lambda files, _, change: described(files, change), change=change))
        yield Hostile(name=f"package-{name}.zip", make=make, says=says, trusted=True)
    source = honest_source_package
    code = package(partial(with_code, fits=True), source)
    yield Hostile(name="package-code.zip", make=code, says="can run code")
    yield Hostile(name="package-changed-code.zip", make=package(partial(with_code, fits=False), source),
                  says="SHA-256", trusted=True)  # fmt: skip
    pickle = package(lambda files, path: with_weights(files, poisoned_pickle(path)), source)
    yield Hostile(name="package-pickle.zip", make=pickle, says="holds more than weights", trusted=True)
    for name, place in {"remote": REMOTE, "up": "../weights.bin", "device": "/dev/zero"}.items():
        yield Hostile(name=f"package-{name}.zip", make=with_source(place), trusted=True,
                      says="nothing is fetched" if name == "remote" else "")  # fmt: skip
    bomb = b"\0" * 2**24
    yield Hostile(name="package-bomb.zip", says="claims to grow",
                  make=lambda path: packages.zipped(path, honest_script_package() | {"bomb": bomb}))  # fmt: skip
    slip = package(lambda files, _: files | {SLIPS[0]: b"x"})
    yield Hostile(name="package-slip.zip", make=slip, says="would be written outside")
    yield Hostile(name="package-cut.zip", make=cut(lambda: zip_of(honest_script_package()), 0.7), says="truncated")
    yield Hostile(name="package-link", make=link_in_folder, says="is a link", trusted=True)
    yield Hostile(name="package-pipe", make=pipe_in_folder, says="does not hold", trusted=True)


# Weights


@cache
def honest_weights() -> dict[str, Any]:
    """Return the weights of a network that spandrel knows."""
    from importlib import import_module

    from napari_maskcal.restore.torchvision_import import import_torchvision

    import_torchvision()

    torch.manual_seed(0)
    network = import_module("spandrel.architectures.DnCNN").DnCNN(in_nc=1, out_nc=1, nc=8, nb=5)
    return dict(network.state_dict())


def weights(legacy: bool = False, **changed: Any) -> bytes:
    return saved(honest_weights() | changed, _use_new_zipfile_serialization=not legacy)


def far_claim(path: Path) -> None:
    """Write a legacy file whose pickle claims far more numbers than there are."""
    content = weights(legacy=True)
    count = honest_weights()["model.0.weight"].numel()
    small, large = b"K" + bytes([count]), b"J" + (2**31 - 1).to_bytes(4, "little")
    if small not in content:
        raise ValueError("the count of the first weight is not where it was expected")
    path.write_bytes(content.replace(small, large))


def checkpoint(**changed: Any) -> bytes:
    """Return a checkpoint as CAREamics writes them."""
    algorithm = {"algorithm": "n2v", "model": {"architecture": "UNet", "conv_dims": 2}}
    data = {"image_means": [0.0], "image_stds": [1.0]}
    hyper = {"algorithm_config": algorithm, "data_config": data}
    return saved({"hyper_parameters": hyper, "state_dict": {"model.w": torch.zeros(2)}} | changed)


def weight_files() -> Iterator[Hostile]:
    made: dict[str, tuple[Callable[[], bytes], str]] = {
        "nan": (lambda: weights(**{"model.0.bias": torch.full((8,), float("nan"))}), "NaN or infinite"),
        "sparse": (lambda: weights(more=torch.ones(2, 2).to_sparse()), "sparse"),
        "bytearray": (lambda: weights(more=bytearray(9)), "bytearray"),
        "layers": (lambda: weights(**{"model.999999999.weight": torch.ones(1)}), "names a layer"),
        "long-name": (lambda: weights(**{"x\n\x1b" * 10**5: torch.full((2,), float("nan"))}), "NaN"),
        "strange": (lambda: saved({"w\n\x1b[2J": torch.ones(2)}), "spandrel does not know"),
        "repeated": (lambda: weights(more=torch.zeros(1).expand(10**6, 10**6)), "claims"),
        "number": (lambda: saved(3), ""),
        "empty": (lambda: saved({}), "no weights"),
        "expanded": (lambda: saved({"w": torch.zeros(1).expand(2**40)}), "claims"),
    }
    for name, (make, says) in made.items():
        writing = partial(lambda path, make: path.write_bytes(make()), make=make)
        yield Hostile(name=f"weights-{name}.pth", make=writing, says=says)
    yield Hostile(name="weights-claim.pth", make=far_claim, says="claims")
    yield Hostile(name="weights-cut.pth", make=cut(weights, 0.6), says="truncated or damaged")
    yield Hostile(name="weights-cut-legacy.pth", make=cut(partial(weights, legacy=True), 0.6), says="truncated")
    for name, change in {"volumes": {"conv_dims": 3}, "wide": {"num_channels_init": 10**9}}.items():
        model = {"algorithm": "n2v", "model": {"architecture": "UNet", "conv_dims": 2} | change}
        hyper = {"algorithm_config": model, "data_config": {"image_means": [0.0], "image_stds": [1.0]}}
        make = partial(lambda path, hyper: path.write_bytes(checkpoint(hyper_parameters=hyper)), hyper=hyper)
        yield Hostile(name=f"careamics-{name}.ckpt", make=make)

    def poisoned(path: Path) -> None:
        path.write_bytes(checkpoint(callbacks=Payload(path.parent / MARKER, True)))

    yield Hostile(name="careamics-pickle.ckpt", make=poisoned, says="holds more than weights")


def honest_packages() -> dict[str, Make]:
    """Return what writes honest packages and files with weights, by name."""
    return {
        "script.zip": lambda path: path.write_bytes(zip_of(honest_script_package())),
        "source.zip": lambda path: path.write_bytes(zip_of(honest_source_package())),
        "folder": lambda path: packages.folder(path, honest_script_package()),
        "weights.pth": lambda path: path.write_bytes(weights()),
        "legacy.pth": lambda path: path.write_bytes(weights(legacy=True)),
    }
