"""Files that no honest program writes, made by code, and honest ones to compare them with."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[[Path], Any]

MARKER = "sprung"  # what a payload makes, beside its file
SLIPS = ("../evil", "/tmp/evil", "C:/evil", "..\\evil", "a/../../evil", "\\\\server\\evil", "")  # noqa: S108
DEEP = 100_000


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A file, how it is made, and what is expected of it.

    Attributes
    ----------
    make
        Writes what is to lie at a path; beside it, if it has to.
    says
        A pattern in what is said by `models.load_restorer`; for a name with ``.maskcal`` by `bundle.read_bundle`.
    trusted
        Whether the user has agreed to it.
    late
        Whether its card alone is sound, and only loading it shows what is wrong.
    runs
        Whether its code then runs, which is what is agreed to.
    opens
        Whether it is harmless after all.
    """

    name: str
    make: Make
    says: str = ""
    trusted: bool = False
    late: bool = False
    runs: bool = False
    opens: bool = False


def written(content: bytes) -> Make:
    """Return what writes `content`."""
    return lambda path: path.write_bytes(content)


# Pickles


@dataclass
class Payload:
    """Unpickling it makes the marker."""

    marker: Path
    shell: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.marker}'",)) if self.shell else (open, (str(self.marker), "w"))


def pickled(path: Path, *, protocol: int = 2, shell: bool = True) -> bytes:
    """Return a pickle that makes the marker beside `path`."""
    return pickle.dumps(Payload(path.parent / MARKER, shell), protocol=protocol)


def torch_archive(path: Path, *, zipped: bool = True) -> None:
    import torch

    payload = {"weight": torch.zeros(2), "more": Payload(path.parent / MARKER, shell=True)}  # noqa: S604
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)


def pickled_inputs(path: Path) -> None:
    """Write an exported program whose example inputs are a pickle with the payload."""
    torch_archive(path)
    path.write_bytes(swapped(honest_export(), {"data/sample_inputs/model.pt": path.read_bytes()}))


def pickles() -> Iterator[Hostile]:
    for protocol in range(6):
        make = partial(lambda path, n: path.write_bytes(pickled(path, protocol=n)), n=protocol)
        yield Hostile(name=f"pickle-{protocol}.safetensors", make=make)
    for suffix in ("onnx", "pt2", "pt", "pth", "maskcal", "maskcal.json"):
        yield Hostile(name=f"pickle.{suffix}", make=lambda path: path.write_bytes(pickled(path, shell=False)))
    for suffix in ("pth", "safetensors", "onnx", "pt2", "maskcal"):
        yield Hostile(name=f"archive.{suffix}", make=torch_archive)
    yield Hostile(name="old-archive.pth", make=partial(torch_archive, zipped=False))
    for part in ("data.pkl", "constants.pkl"):
        for trusted in (False, True):
            make = partial(lambda path, part: script_with(path, {f"/{part}": pickled(path)}), part=part)
            says = "TorchScript" if trusted else "can run code"
            yield Hostile(name=f"{part}-{trusted}.pt", make=make, trusted=trusted, says=says)
    for trusted in (False, True):
        says = "" if trusted else "can run code"
        yield Hostile(
            name=f"pickled-inputs-{trusted}.pt2", make=pickled_inputs, trusted=trusted, runs=trusted, says=says
        )


# Programs: TorchScript and torch.export


@cache
def honest_script() -> bytes:
    return script(lambda image: image + 1)


def script(function: Callable[[Any], Any], **kwargs: Any) -> bytes:
    """Return a TorchScript of a function of an image."""
    import torch

    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> Any:
            return function(image)

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(Network(), torch.rand(1, 1, 32, 32), check_trace=False, **kwargs), buffer)
    return buffer.getvalue()


@cache
def honest_export() -> bytes:
    import torch

    sides = {2: torch.export.Dim("y", min=4, max=4096), 3: torch.export.Dim("x", min=4, max=4096)}
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.rand(1, 1, 32, 32),), dynamic_shapes=(sides,)), buffer)
    return buffer.getvalue()


def parts_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], **extra: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, **extra)
    return buffer.getvalue()


def swapped(content: bytes, changed: dict[str, bytes]) -> bytes:
    """Return an archive of torch with parts replaced; they are named by the end of their names."""
    parts, made = parts_of(content), {}
    for end, part in changed.items():
        (name,) = (name for name in parts if name.endswith(end))
        made[name] = part
    return zipped(parts | made)


def script_with(path: Path, changed: dict[str, bytes]) -> None:
    path.write_bytes(swapped(honest_script(), changed))


def cut(content: Callable[[], bytes], share: float) -> Make:
    return lambda path: path.write_bytes(content()[: int(share * len(content()))])


def programs() -> Iterator[Hostile]:
    for share in (0.1, 0.5, 0.999):
        yield Hostile(name=f"cut-{share}.pt", make=cut(honest_script, share), says="truncated or damaged", trusted=True)
        yield Hostile(
            name=f"cut-{share}.pt2", make=cut(honest_export, share), says="truncated or damaged", trusted=True
        )
    for name, honest in (("script.pt", honest_script), ("export.pt2", honest_export)):
        make = partial(lambda path, honest: path.write_bytes(honest()), honest=honest)
        yield Hostile(name=name, make=make, says="can run code.*--trust")
    damaged = {
        "no-code.pt": {".py": b"nonsense ("},
        "deep-code.pt": {".py": b"(" * DEEP},
        "no-constants.pt": {"/constants.pkl": b"."},
        "no-version.pt": {"/version": b"x"},
        "far-version.pt": {"/version": b"999999999"},
    }
    for name, changed in damaged.items():
        yield Hostile(name=name, make=partial(script_with, changed=changed), says="TorchScript", trusted=True)
    changed_exports = {
        "no-json.pt2": {"models/model.json": b"{"},
        "deep-json.pt2": {"models/model.json": b"[" * DEEP},
        "no-program.pt2": {"models/model.json": b"{}"},
        "short-weight.pt2": {"data/weights/weight_0": b"1234"},
        "far-weight.pt2": {
            "data/weights/model_weights_config.json": b'{"config": {"weight": {"path_name": "../../x"}}}'
        },
    }
    for name, parts in changed_exports.items():
        make = partial(lambda path, parts: path.write_bytes(swapped(honest_export(), parts)), parts=parts)
        yield Hostile(name=name, make=make, says="exported program", trusted=True)


ANSWERS: dict[str, Callable[[Any], Any]] = {
    "nan": lambda image: image / 0 - image / 0,
    "infinite": lambda image: image + float("inf"),
    "random": lambda image: image + image.new_empty(image.shape).normal_(),
    "smaller": lambda image: image[..., 1:, 1:],
    "larger-by-half": lambda image: image.repeat(1, 1, 3, 3)[..., ::2, ::2],
    "17-fold": lambda image: image.repeat(1, 1, 17, 17),
    "tuple": lambda image: (image, image),
    "dict": lambda image: {"image": image},
    "integer": lambda image: (image * 255).int(),
    "bytes": lambda image: (image * 255).byte(),
    "double": lambda image: image.double(),
    "half": lambda image: image.half(),
    "complex": lambda image: image * 1j,
    "truths": lambda image: image > 0.5,
    "number": lambda image: image.sum(),
    "nothing": lambda image: image[..., :0],
    "three-axes": lambda image: image[0],
    "two-channels": lambda image: image.repeat(1, 2, 1, 1),
}


_OTHER_TYPES = ("integer", "bytes", "double", "half", "complex", "truths")


def answering(name: str) -> Make:
    kwargs = {"strict": False} if name == "dict" else {}
    return lambda path: path.write_bytes(script(ANSWERS[name], **kwargs))


def answers() -> Iterator[Hostile]:
    for name in ANSWERS:
        says = "not float32; export it" if name in _OTHER_TYPES else ""
        yield Hostile(name=f"gives-{name}.pt", make=answering(name), trusted=True, says=says)


# Zips


def with_entry(honest: Callable[[], bytes], name: str, *, mode: int = 0o644, content: bytes = b"x") -> Make:
    """Return what writes an honest archive with one entry more."""

    def make(path: Path) -> None:
        buffer = io.BytesIO(honest())
        with zipfile.ZipFile(buffer, "a") as archive:
            info = zipfile.ZipInfo("entry")
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, content)
        path.write_bytes(buffer.getvalue())

    return make


def claiming(honest: Callable[[], bytes], size: int) -> Make:
    """Return what writes an honest archive whose list of entries claims `size` bytes for the first."""

    def make(path: Path) -> None:
        content = bytearray(honest())
        place = content.index(b"PK\x01\x02")
        struct.pack_into("<II", content, place + 20, size, size)
        path.write_bytes(content)

    return make


def overlapping(path: Path) -> None:
    """Every entry of the list points to one and the same kernel of data."""
    buffer = io.BytesIO(zipped({f"n/{i}": b"0" * 1000 for i in range(1000)} | parts_of(honest_script())))
    content = bytearray(buffer.getvalue())
    place = content.index(b"PK\x01\x02")
    while content[place : place + 4] == b"PK\x01\x02":
        struct.pack_into("<I", content, place + 42, 0)
        name, extra, comment = struct.unpack_from("<HHH", content, place + 28)
        place += 46 + name + extra + comment
    path.write_bytes(content)


def many_entries(path: Path, count: int = 300_000) -> None:
    """A list of entries alone, and nothing that it lists: some MB, and as Python objects a hundred times that."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    start = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    size = count * len(entry)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, len(start))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(start) + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(start + entry * count + wide + locator + end)


def shrunk(parts: dict[str, bytes]) -> bytes:
    return zipped(parts, compress_type=zipfile.ZIP_DEFLATED)


def zips() -> Iterator[Hostile]:
    for i, name in enumerate(SLIPS):
        yield Hostile(name=f"slip-{i}.pt", make=with_entry(honest_script, name), says="entry", trusted=True)
        yield Hostile(name=f"slip-{i}.maskcal", make=with_entry(honest_bundle, name), says="not a .maskcal bundle")
    link = partial(with_entry, name="archive/link", mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd")
    yield Hostile(name="link.pt", make=link(honest_script), says="is a link", trusted=True)
    yield Hostile(name="link.pt2", make=link(honest_export), says="is a link", trusted=True)
    yield Hostile(name="twice.pt", make=with_entry(honest_script, "archive/version"), says="two entries", trusted=True)
    yield Hostile(name="twice.maskcal", make=with_entry(honest_bundle, "maskcal.json"), says="not a .maskcal bundle")
    yield Hostile(name="long-name.pt", make=with_entry(honest_script, "../" + "a" * 60_000), says="entry", trusted=True)
    yield Hostile(name="line-break.maskcal", make=with_entry(honest_bundle, "a\nb" * 10_000), says="not a .maskcal")
    yield Hostile(
        name="ratio.pt", make=written(shrunk({"a/constants.pkl": b"", "a/code/x.py": bytes(10**8)})), says="grow"
    )
    huge = {"maskcal.json": b" " * 60 * 2**20, "mask.safetensors": bytes(2 * 10**8)}
    yield Hostile(name="ratio.maskcal", make=lambda path: path.write_bytes(shrunk(huge)), says="claims to grow")
    yield Hostile(name="claims.pt", make=claiming(honest_script, 0xFFFFFFF0), trusted=True)
    yield Hostile(
        name="claims.maskcal", make=claiming(honest_bundle, 0xFFFFFFF0), says="claims .* more than is allowed"
    )
    yield Hostile(name="overlapping.pt", make=overlapping, trusted=True)
    yield Hostile(name="entries.pt", make=many_entries, says="entries", trusted=True)
    yield Hostile(name="entries.maskcal", make=many_entries, says="list of entries")
    yield Hostile(name="empty.zip", make=written(zipped({})))
    yield Hostile(name="empty-zip.maskcal", make=written(zipped({})))


# safetensors


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> Make:
    """Return what writes a header, JSON or bytes, and data after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(struct.pack("<Q", len(text) if length is None else length) + text + data)


def claimed(shape: list[int], *, dtype: str = "F32", size: int = 4) -> dict[str, Any]:
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


CARD: dict[str, Any] = {
    "name": "n", "role": "restorer", "network": {"kind": "unet", "widths": [2, 2]},
    "stride_px": 2, "halo_px": 64, "min_size_px": 16,
}  # fmt: skip


def unet_weights(role: str = "restorer") -> dict[str, Any]:
    from napari_maskcal.restore.kinds import make_network

    return make_network({"kind": "unet", "widths": [2, 2]}, role=role).state_dict()


def restorer_file(path: Path, *, card: Any = None, text: str | None = None, **changed: Any) -> None:
    """Write a restorer of this package with parts of its card, the whole card, or tensors replaced."""
    from safetensors.torch import save

    text = json.dumps(CARD | (card or {})) if text is None else text
    tensors = {name: changed.get(name.replace(".", "_"), tensor) for name, tensor in unet_weights().items()}
    path.write_bytes(save(tensors, metadata={"napari_maskcal": text}))


CARDS: dict[str, dict[str, Any]] = {
    "negative": {"stride_px": -1}, "zero": {"min_size_px": 0}, "huge": {"halo_px": 10**30},
    "huge-factor": {"scale_factor": 10**9}, "not-a-number": {"halo_px": float("nan")},
    "unknown": {"network": {"kind": "os.system"}}, "other-role": {"network": {"kind": "mask-unet"}},
    "long-kind": {"network": {"kind": "x\n" * 10**6}}, "long-role": {"role": "x\n" * 10**6},
    "wide": {"network": {"kind": "unet", "widths": [10**15] * 3}},
    "deep": {"network": {"kind": "unet", "widths": [1] * 10**6}},
    "private": {"network": {"kind": "unet", "__class__": "x"}},
    "volumes": {"network": {"kind": "unet", "widths": [2, 2], "dims": 3}},
    "long-key": {"network": {"kind": "unet", "x" * 10**6: 1}},
    "percentile": {"normalisation": {"low_percentile": -1}},
}  # fmt: skip


def own_files() -> Iterator[Hostile]:
    for length in (2**60, 2**63 - 1, 2**64 - 1, 0, 10**8):
        yield Hostile(name=f"header-{length}.safetensors", make=safetensors(b"{}", length=length))
    headers = {
        "no-json": b"{'a': 1}", "not-utf-8": b'{"\xff\xfe": 1}', "deep": b"[" * DEEP, "deep-keys": b'{"a":' * DEEP,
        "list": b"[1, 2]", "null": b"null", "nul": bytes(100), "twice": b'{"a":{},"a":{}}',
    }  # fmt: skip
    for name, header in headers.items():
        yield Hostile(name=f"{name}.safetensors", make=safetensors(header))
    shapes = {
        "huge-shape": claimed([10**15]), "overflowing-shape": claimed([2**32, 2**32, 2**32]),
        "negative-shape": claimed([-1]), "many-axes": claimed([1] * 10**6), "unknown-type": claimed([1], dtype="X9"),
        "outside": claimed([1], size=2**40), "short": claimed([2], size=4),
    }  # fmt: skip
    for name, header in shapes.items():
        yield Hostile(name=f"{name}.safetensors", make=safetensors(header, bytes(4)))
    for share in (0.01, 0.2, 0.9, 0.9999):
        yield Hostile(name=f"cut-{share}.safetensors", make=cut(honest_restorer, share))
    for name, card in CARDS.items():
        yield Hostile(name=f"card-{name}.safetensors", make=partial(restorer_file, card=card), late="network" in card)
    for name, text in {"no-card": "x", "deep-card": "[" * DEEP, "list-card": "[]", "null-card": "null"}.items():
        yield Hostile(name=f"{name}.safetensors", make=partial(restorer_file, text=text))
    for value in ("nan", "inf"):
        make = partial(lambda path, value: restorer_file(path, head_bias=tensor(float(value))), value=value)
        yield Hostile(name=f"weights-{value}.safetensors", make=make, late=True)
    for dtype in ("float16", "float64", "bfloat16", "int64", "complex64", "bool"):
        make = partial(lambda path, dtype: restorer_file(path, head_bias=tensor(1, dtype)), dtype=dtype)
        yield Hostile(name=f"weights-{dtype}.safetensors", make=make, late=True)


def tensor(value: float, dtype: str = "float32") -> Any:
    import torch

    return torch.tensor([value], dtype=getattr(torch, dtype))


def demo(name: str) -> bytes:
    import napari_maskcal

    return (Path(napari_maskcal.__file__).parent / "demo" / name).read_bytes()


def honest_restorer() -> bytes:
    return demo("restorer.safetensors")


def honest_bundle() -> bytes:
    return demo("demo.maskcal")


# .maskcal


def bundle_with(path: Path, changed: dict[str, bytes | None]) -> None:
    """Write the demo's bundle with parts replaced, added, or left out."""
    parts = parts_of(honest_bundle()) | changed
    path.write_bytes(shrunk({name: part for name, part in parts.items() if part is not None}))


def described(**changed: Any) -> dict[str, Any]:
    """Return the change of parts of ``maskcal.json``."""
    return {"maskcal.json": json.dumps(json.loads(parts_of(honest_bundle())["maskcal.json"]) | changed).encode()}


def rehashed(path: Path, weights: bytes) -> None:
    """Write an uncalibrated bundle with any bytes for weights, and hashes that fit."""
    import hashlib

    from napari_maskcal.bundle import mask_sha256
    from napari_maskcal.restore.card import ModelCard

    card = ModelCard.model_validate(json.loads(parts_of(honest_bundle())["maskcal.json"])["card"])
    hashes = {"mask.safetensors": hashlib.sha256(weights).hexdigest(), "mask": mask_sha256(card, weights)}
    content = {"schema_version": 1, "card": json.loads(card.model_dump_json()), "sha256": hashes}
    path.write_bytes(shrunk({"maskcal.json": json.dumps(content).encode(), "mask.safetensors": weights}))


def poisoned() -> bytes:
    from safetensors.torch import load, save

    tensors = load(parts_of(honest_bundle())["mask.safetensors"])
    return save({name: tensor * float("nan") for name, tensor in tensors.items()})


def bundles() -> Iterator[Hostile]:
    for share in (0.01, 0.5, 0.999):
        yield Hostile(name=f"cut-{share}.maskcal", make=cut(honest_bundle, share), says="truncated")
    for name in ("mask.safetensors", "curves.safetensors"):
        changed = {name: b"x"}
        yield Hostile(name=f"changed-{name}.maskcal", make=partial(bundle_with, changed=changed), says="hash|damaged")
        yield Hostile(name=f"less-{name}.maskcal", make=partial(bundle_with, changed={name: None}), says="bundle")
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "no-json": lambda: {"maskcal.json": b"{"}, "not-utf-8": lambda: {"maskcal.json": b'{"a": "\xff\xfe"}'},
        "deep": lambda: {"maskcal.json": b"[" * DEEP}, "nan": lambda: {"maskcal.json": b'{"schema_version": NaN}'},
        "list": lambda: {"maskcal.json": b"[]"}, "newer": lambda: described(schema_version=10**30),
        "no-certificate": lambda: described(certificate=None), "no-card": lambda: described(card=None),
        "another-certificate": lambda: described(certificate={}), "no-hashes": lambda: described(sha256={}),
        "long-hashes": lambda: described(sha256={"x\n" * 10**6: 1, "y": "z"}),
        "surrogate": lambda: {"maskcal.json": b'{"schema_version": 1, "card": "\\ud800"}'},
        "long-number": lambda: {"maskcal.json": b'{"schema_version": ' + b"9" * 10**5 + b"}"},
        "more": lambda: {"more.py": b"x"}, "no-description": lambda: {"maskcal.json": None},
    }  # fmt: skip
    for name, change in changes.items():
        make = partial(lambda path, change: bundle_with(path, change()), change=change)
        yield Hostile(name=f"{name}.maskcal", make=make)
    for name, weights in {
        "huge-weights": struct.pack("<Q", 2**60) + b"{}", "no-weights": b"", "pickle-weights": pickle.dumps({}),
    }.items():  # fmt: skip
        yield Hostile(name=f"{name}.maskcal", make=partial(rehashed, weights=weights), says="mask.safetensors")
    yield Hostile(name="nan-weights.maskcal", make=lambda path: rehashed(path, poisoned()), says="NaN or infinite")


# What is no file of a network at all


def image_file(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)


def linked(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def listening(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(place)


def folder_of_links(path: Path) -> None:
    path.mkdir()
    for name, target in {"up": "..", "root": "/", "zeros": "/dev/zero", "itself": path.name}.items():
        (path / name).symlink_to(target)
    os.mkfifo(path / "rdf.yaml")


def others() -> Iterator[Hostile]:
    for suffix in ("safetensors", "onnx", "pt", "maskcal"):
        yield Hostile(name=f"empty.{suffix}", make=written(b""))
        yield Hostile(name=f"text.{suffix}", make=written(b"not a network\n" * 999))
    yield Hostile(name="zeros.onnx", make=written(bytes(10**6)))
    yield Hostile(name="noise.onnx", make=written(np.random.default_rng(0).bytes(10**5)))
    yield Hostile(name="image.png", make=image_file)
    yield Hostile(name="image.tif", make=image_file)
    yield Hostile(name="compressed.gz", make=written(zlib.compress(b"x" * 99)))
    for suffix in ("safetensors", "onnx", "pt", "maskcal"):
        yield Hostile(name=f"fifo.{suffix}", make=os.mkfifo)
    yield Hostile(name="folder", make=Path.mkdir)
    yield Hostile(name="folder-of-links", make=folder_of_links)
    yield Hostile(name="zero.onnx", make=linked("/dev/zero"))
    yield Hostile(name="null.onnx", make=linked("/dev/null"))
    yield Hostile(name="root", make=linked("/"))
    yield Hostile(name="nowhere.onnx", make=linked("nowhere"))
    yield Hostile(name="itself.onnx", make=linked("itself.onnx"))
    yield Hostile(name="socket.onnx", make=listening)
    yield Hostile(name="missing.onnx", make=lambda path: None)
    yield Hostile(name="sparse.onnx", make=lambda path: os.truncate(path.touch() or path, 2**42))
    yield Hostile(name="sparse.safetensors", make=lambda path: os.truncate(path.touch() or path, 2**42))


# The list of what the user has agreed to


def config_home() -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "napari-maskcal" / "trusted.json"


def with_list(make_list: Make) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(honest_script())
        config_home().parent.mkdir(parents=True, exist_ok=True)
        make_list(config_home())

    return make


def lists() -> Iterator[Hostile]:
    found = {
        "no-json": written(b"{"), "empty": written(b""), "list": written(b"[]"), "text": written(b'"x"'),
        "null": written(b"null"), "deep": written(b"[" * DEEP), "not-utf-8": written(b"\xff\xfe\xfd"),
        "folder": Path.mkdir, "fifo": os.mkfifo, "zeros": linked("/dev/zero"),
        "sparse": lambda path: os.truncate(path.touch() or path, 2**40),
    }  # fmt: skip
    for name, make in found.items():
        yield Hostile(name=f"trust-{name}.pt", make=with_list(make), says="list of files that you agreed to")


def everything() -> dict[str, Hostile]:
    """Return all hostile files by name."""
    from hostile_graphs import descriptions, graphs
    from hostile_packages import bioimage_packages, weight_files

    makers = (pickles, programs, answers, zips, own_files, bundles, others, lists, graphs, descriptions,
              bioimage_packages, weight_files)  # fmt: skip
    found = [hostile for make in makers for hostile in make()]
    by_name = {hostile.name: hostile for hostile in found}
    if len(by_name) < len(found):
        names = [hostile.name for hostile in found]
        raise ValueError(f"two hostile files are called {sorted(name for name in by_name if names.count(name) > 1)}")
    return by_name


def honest_files() -> dict[str, Make]:
    """Return what writes honest files of all formats, by name."""
    from hostile_graphs import honest_graph
    from hostile_packages import honest_packages

    contents = {
        "script.pt": honest_script, "export.pt2": honest_export, "graph.onnx": honest_graph,
        "own.safetensors": honest_restorer, "own.maskcal": honest_bundle,
    }  # fmt: skip
    made = {name: partial(lambda path, of: path.write_bytes(of()), of=content) for name, content in contents.items()}
    return made | honest_packages()
