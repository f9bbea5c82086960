"""ONNX graphs that ask for more than they should, and descriptions that do not hold."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hostile_files import CARD, DEEP, Hostile, cut, linked, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[[Path], Any]

PLANE = ("n", 1, "y", "x")


def model(
    nodes: list[Any],
    *,
    weights: Any = (),
    shape: Any = PLANE,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("z",),
    takes: str = "FLOAT",
    gives: str = "FLOAT",
    opset: int = 17,
) -> Any:
    """Return an ONNX model of these nodes, from ``x`` to ``z``."""
    from onnx import TensorProto, helper

    given = [helper.make_tensor_value_info(name, getattr(TensorProto, takes), shape) for name in inputs]
    made = [helper.make_tensor_value_info(name, getattr(TensorProto, gives), None) for name in outputs]
    graph = helper.make_graph(nodes, "g", given, made, list(weights))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("unknown.library", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(kind: str, inputs: str, outputs: str = "z", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def constant(name: str, value: Any, dtype: Any = np.float32) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value, dtype), name)


def smoothing() -> Any:
    return model([node("Conv", "x w", pads=[1] * 4)], weights=[constant("w", np.full((1, 1, 3, 3), 1 / 9))])


@cache
def honest_graph() -> bytes:
    return smoothing().SerializeToString()


def elsewhere(place: str, *, value_first: bool = False, as_attribute: bool = False) -> Callable[[Path], bytes]:
    """Return what makes a model whose weights are in another file, `value_first` in an order that none writes."""

    def make(path: Path) -> bytes:
        from onnx import TensorProto

        location = place.format(folder=path.parent)
        for folder in (path.parent, Path.cwd()):
            (folder / "weights.bin").write_bytes(np.ones(9, np.float32).tobytes())
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 1, 3, 3])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        convolution = node("Conv", "x w", pads=[1] * 4)
        if as_attribute:
            made = model([node("Constant", "", "w", value=weight), convolution])
        else:
            made = model([convolution], weights=[weight])
        content: bytes = made.SerializeToString()
        pair = bytes([len(location)]) + location.encode()
        usual, reverse = b"\n\x08location\x12" + pair, b"\x12" + pair + b"\n\x08location"
        if usual not in content:
            raise ValueError("the weights' place is not where it was expected")
        return content.replace(usual, reverse) if value_first else content

    return make


def claiming_weight(path: Path, *, dims: list[int]) -> bytes:
    from onnx import TensorProto

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(36))
    return bytes(model([node("Add", "x w")], weights=[weight]).SerializeToString())


def endless(path: Path) -> bytes:
    """Return a model that adds 0 some 10^18 times."""
    from onnx import TensorProto, helper

    scalar = partial(helper.make_tensor_value_info, shape=[])
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "state zero", "next")], "body",
        [scalar("i", TensorProto.INT64), scalar("go", TensorProto.BOOL),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, None)],
        [scalar("on", TensorProto.BOOL), helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
        [constant("zero", 0)],
    )  # fmt: skip
    weights = [constant("count", 10**18, np.int64), constant("yes", True, np.bool_)]
    return bytes(model([node("Loop", "count yes x", body=body)], weights=weights).SerializeToString())


def function_with(kind: str, inputs: str = "a", weight: Any = None) -> bytes:
    """Return a model whose only node calls a function of one node, after a constant if there is one."""
    from onnx import helper

    constants = [] if weight is None else [node("Constant", "", "w", value=weight)]
    nodes = [*constants, node(kind, inputs, "b")]
    made = model([node("f", "x", domain="own")])
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("own", "f", ["a"], ["b"], nodes, opsets))
    made.opset_import.append(helper.make_opsetid("own", 1))
    return bytes(made.SerializeToString())


def weight_elsewhere(path: Path) -> bytes:
    from onnx import TensorProto

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 1, 3, 3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    return function_with("Conv", "a w", weight)


def nested_graphs(path: Path) -> bytes:
    """Return so many graphs in graphs that a parser which calls itself would fall over."""
    content = b""
    for _ in range(3000):
        attribute = field(6, content)  # of a node's attribute: a graph
        content = field(1, field(5, attribute))  # of a graph: a node, with an attribute
    return field(7, content) + field(8, b"\x10\x11")


def field(number: int, content: bytes) -> bytes:
    """Return a protobuf field with bytes in it."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def huge_constant(path: Path, *, size: int) -> bytes:
    nodes = [node("ConstantOfShape", "size", "c"), node("ReduceSum", "c", "r", keepdims=0), node("Add", "x r")]
    return bytes(model(nodes, weights=[constant("size", [size], np.int64)]).SerializeToString())


def ones(name: str, value: float = 1) -> Any:
    return constant(name, value)


GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "volumes": (lambda: model([node("Relu", "x")], shape=("n", 1, "t", "z", "y", "x")), "6 axes"),
    "no-batch": (lambda: model([node("Relu", "x")], shape=(1, "y", "x")), "3 axes"),
    "no-shape": (lambda: model([node("Relu", "x")], shape=None), ""),
    "fixed": (lambda: model([node("Relu", "x")], shape=(1, 1, 64, 64)), "64 pixels along an axis"),
    "zero-size": (lambda: model([node("Relu", "x")], shape=(1, 1, 0, 0)), ""),
    "two-inputs": (lambda: model([node("Add", "x y")], inputs=("x", "y")), "2 inputs"),
    "no-input": (lambda: model([node("Identity", "w")], weights=[ones("w")], inputs=()), "0 inputs"),
    "no-output": (lambda: model([node("Relu", "x")], outputs=()), ""),
    "two-outputs": (lambda: model([node("Relu", "x"), node("Neg", "x", "y")], outputs=("z", "y")), "2 outputs"),
    "long-names": (lambda: model([node("Add", "x " + "y" * 10**6)], inputs=("x", "y" * 10**6)), "2 inputs"),
    "takes-integers": (lambda: model([node("Identity", "x")], takes="INT32", gives="INT32"), ""),
    "takes-double": (lambda: model([node("Relu", "x")], takes="DOUBLE", gives="DOUBLE"), ""),
    "takes-half": (lambda: model([node("Relu", "x")], takes="FLOAT16", gives="FLOAT16"), ""),
    "takes-complex": (lambda: model([node("Identity", "x")], takes="COMPLEX64", gives="COMPLEX64"), ""),
    "takes-text": (lambda: model([node("Identity", "x")], takes="STRING", gives="STRING"), ""),
    "17-channels": (lambda: model([node("Relu", "x")], shape=("n", 17, "y", "x")), ""),
    "gives-integers": (lambda: model([node("Cast", "x", to=6)], gives="INT32"), ""),
    "gives-double": (lambda: model([node("Cast", "x", to=11)], gives="DOUBLE"), ""),
    "gives-text": (lambda: model([node("Cast", "x", to=8)], gives="STRING"), ""),
    "gives-nan": (lambda: model([node("Div", "x w", "v"), node("Sub", "v v")], weights=[ones("w", 0)]), "NaN"),
    "nan-weight": (lambda: model([node("Mul", "x w")], weights=[ones("w", np.nan)]), "NaN"),
    "gives-noise": (lambda: model([node("RandomNormalLike", "x", "r"), node("Add", "x r")]), "another answer"),
    "gives-number": (lambda: model([node("ReduceSum", "x", keepdims=0)]), ""),
    "gives-flat": (lambda: model([node("Flatten", "x")]), ""),
    "gives-list": (lambda: sequence(), ""),
    "unknown-operator": (lambda: model([node("Run", "x", domain="unknown.library")]), "cannot be read as ONNX"),
    "far-opset": (lambda: model([node("Relu", "x")], opset=10**6), "cannot be read as ONNX"),
    "no-graph": (lambda: model([node("Relu", "nowhere")]), "cannot be read as ONNX"),
    "circle": (lambda: model([node("Add", "x z", "y"), node("Relu", "y")]), "cannot be read as ONNX"),
    "trillion-fold": (lambda: tiled(10**6), ""),
}


def sequence() -> Any:
    from onnx import TensorProto, helper

    made = model([node("SequenceConstruct", "x x")])
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("z", TensorProto.FLOAT, None))
    return made


def tiled(times: int) -> Any:
    return model([node("Tile", "x t")], weights=[constant("t", [1, 1, times, times], np.int64)])


def bytes_of(make: Callable[[Path], bytes]) -> Make:
    return lambda path: path.write_bytes(make(path))


def graphs() -> Iterator[Hostile]:
    for name, (make, says) in GRAPHS.items():
        as_bytes = partial(lambda path, make: make().SerializeToString(), make=make)
        yield Hostile(name=f"{name}.onnx", make=bytes_of(as_bytes), says=says)
    for share in (0.1, 0.5, 0.9, 0.99):
        yield Hostile(name=f"cut-{share}.onnx", make=cut(honest_graph, share))
    places = {
        "beside": "weights.bin", "up": "../weights.bin", "round": "a/../weights.bin",
        "absolute": "{folder}/weights.bin", "device": "/dev/zero", "address": "file:///etc/passwd",
    }  # fmt: skip
    for name, place in places.items():
        for value_first in (False, True):
            make = bytes_of(elsewhere(place, value_first=value_first))
            yield Hostile(name=f"{name}-{value_first}-elsewhere.onnx", make=make, says="another file")
    attribute = elsewhere("weights.bin", value_first=True, as_attribute=True)
    yield Hostile(name="attribute-elsewhere.onnx", make=bytes_of(attribute), says="another file")
    for dims in ([10**12], [2**32, 2**32], [-1], [1] * 10**5, [2**62, 4]):
        make = bytes_of(partial(claiming_weight, dims=dims))
        yield Hostile(name=f"weight-of-{len(dims)}-{dims[0]}.onnx", make=make)
    for size in (10**9, 10**12, 2**62, -1):
        yield Hostile(name=f"constant-{size}.onnx", make=bytes_of(partial(huge_constant, size=size)))
    yield Hostile(name="endless.onnx", make=bytes_of(endless), says="has a loop")
    looping = bytes_of(lambda path: function_with("Loop"))
    yield Hostile(name="loop-in-function.onnx", make=looping, says="has a loop")
    yield Hostile(name="function-elsewhere.onnx", make=bytes_of(weight_elsewhere), says="another file")
    many = field(7, b"") + field(8, b"\x10\x11") + field(15, b"") * 1_100_000
    yield Hostile(name="many-fields.onnx", make=written(many))
    inside = field(7, field(1, b"") * 1_100_000) + field(8, b"\x10\x11")
    yield Hostile(name="many-nodes.onnx", make=written(inside), says="more parts than a network has")
    yield Hostile(name="nested.onnx", make=bytes_of(nested_graphs))
    yield Hostile(name="flatbuffer.onnx", make=written(b"\x0a\x02ORTM" + field(7, b"") + field(8, b"\x10\x11")))


# Descriptions


def beside(make: Callable[[Path, str], Any]) -> Make:
    """Return what writes an honest graph, and what `make` writes as its description."""

    def make_both(path: Path) -> None:
        path.write_bytes(honest_graph())
        make(path.with_name(path.name + ".maskcal.json"), hashlib.sha256(honest_graph()).hexdigest())

    return make_both


def saying(content: bytes | None = None, **card: Any) -> Make:
    """Return what writes an honest graph with a description, of its content or any bytes."""

    def make(place: Path, sha256: str) -> None:
        network = {"kind": "onnx", "channels": 1}
        known = {"schema_version": 1, "sha256": sha256, "card": CARD | {"network": network, "stride_px": 1} | card}
        place.write_bytes(json.dumps(known).encode() if content is None else content)

    return beside(make)


def lying_link(place: Path, sha256: str) -> None:
    """Make a link to a file that must stay as it is."""
    other = place.parent / "other.json"
    other.write_text(json.dumps({"sha256": "0" * 64, "card": {}}))
    place.symlink_to(other)


def descriptions() -> Iterator[Hostile]:
    yield Hostile(name="honest.onnx", make=saying(), opens=True)
    yield Hostile(name="undescribed.onnx", make=bytes_of(lambda _: honest_graph()), opens=True)
    damaged = {
        "no-json": b"{", "empty": b"", "list": b"[]", "text": b'"x"', "null": b"null", "deep": b"[" * DEEP,
        "not-utf-8": b'{"sha256": "\xff\xfe"}', "pickle": b"\x80\x04N.", "huge": b" " * 2**21,
    }  # fmt: skip
    for name, content in damaged.items():
        yield Hostile(name=f"described-{name}.onnx", make=saying(content), says="maskcal.json .*remove it")
    cards: dict[str, dict[str, Any]] = {
        "negative": {"stride_px": -1}, "zero": {"min_size_px": 0}, "huge": {"halo_px": 10**30},
        "not-a-number": {"halo_px": float("nan")}, "surrogate": {"name": "\ud800"}, "mask": {"role": "mask"},
        "other-kind": {"network": {"kind": "unet"}}, "views": {"network": {"kind": "views", "of": {}}},
        "channels": {"network": {"kind": "onnx", "channels": 10**9}},
        "no-channels": {"network": {"kind": "onnx", "channels": 0}},
        "text-channels": {"network": {"kind": "onnx", "channels": "x"}},
        "list-channels": {"network": {"kind": "onnx", "channels": [1]}},
    }  # fmt: skip
    for name, card in cards.items():
        yield Hostile(name=f"card-{name}.onnx", make=saying(**card), says="maskcal.json")
    yield Hostile(
        name="described-sparse.onnx", make=beside(lambda place, _: os.truncate(place.touch() or place, 2**40))
    )
    yield Hostile(name="described-zeros.onnx", make=beside(lambda place, _: linked("/dev/zero")(place)), opens=True)
    yield Hostile(
        name="described-secret.onnx", make=beside(lambda place, _: linked("/etc/passwd")(place)), says="remove"
    )
    yield Hostile(name="described-link.onnx", make=beside(lying_link), opens=True)
    yield Hostile(name="described-fifo.onnx", make=beside(lambda place, _: os.mkfifo(place)), opens=True)
    yield Hostile(name="described-folder.onnx", make=beside(lambda place, _: place.mkdir()), opens=True)
