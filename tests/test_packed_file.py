import base64
import hashlib
import json
import random
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graph_examples import every_node, unet
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_codes, random_graph
from safetensors.numpy import load_file, save_file

from quantunet.errors import UserError
from quantunet.formats import INT32, IntFormat
from quantunet.ir import interpreter, packed_file
from quantunet.ir.bit_packing import pack, pack_rows, row_bytes, unpack, unpack_rows
from quantunet.ir.graph import ArgMax, Conv2d, GraphError, Input, IntegerGraph, Requantize, Rescale
from quantunet.ir.packed_file import decode_model, encode_model, payload_and_header_bytes, read_model, write_model

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "fuzz_model_file.py"


@given(st.data(), st.integers(1, 32), st.booleans())
def test_pack_follows_its_definition_bit_by_bit(data, bit_width, signed):
    stored = IntFormat(bit_width, signed)
    codes = data.draw(st.lists(st.integers(stored.q_min, stored.q_max), max_size=20))
    stream = sum((code % 2**bit_width) << (place * bit_width) for place, code in enumerate(codes))
    expected = stream.to_bytes((len(codes) * bit_width + 7) // 8, "little")
    packed = pack(np.array(codes, np.int64), stored)
    assert packed.tobytes() == expected
    assert unpack(packed, stored, len(codes)).tolist() == codes


@given(st.lists(st.integers(1, 8), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 2**32))
def test_rows_are_packed_one_by_one_from_byte_to_byte(widths, per_row, seed):
    rng = np.random.default_rng(seed)
    bit_width = np.array(widths)
    half = (1 << (bit_width - 1))[:, None]
    codes = rng.integers(-half, half, (len(widths), per_row))
    packed = pack_rows(codes, bit_width)
    rows = [pack(row, IntFormat(width, True)).tobytes() for row, width in zip(codes, widths, strict=True)]
    assert packed.tobytes() == b"".join(rows)
    assert row_bytes(per_row, bit_width).tolist() == [len(row) for row in rows]
    assert np.array_equal(unpack_rows(packed, bit_width, per_row), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        pack(np.array([8]), IntFormat(4, True))
    with pytest.raises(ValueError, match="do not fit"):
        pack_rows(np.array([[0, 1], [0, 2]]), np.array([2, 2]))
    with pytest.raises(ValueError, match="bytes"):
        unpack(np.zeros(3, np.uint8), IntFormat(4, True), 4)


def equal(a: IntegerGraph, b: IntegerGraph) -> bool:
    return encode_model(a) == encode_model(b)


@pytest.mark.parametrize("by_shift", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_round_trip_keeps_every_code_and_every_bit(tmp_path, by_shift, binary):
    graph, path = every_node(3, by_shift, binary), tmp_path / "model.safetensors"
    length = write_model(graph, path)
    again = read_model(path)
    assert length == path.stat().st_size == sum(payload_and_header_bytes(path))
    assert again.metadata == graph.metadata
    assert [type(node) for node in again.nodes] == [type(node) for node in graph.nodes]
    for ours, theirs in zip(graph.weight_nodes(), again.weight_nodes(), strict=True):
        for field in ("weight", "weight_bit_width", "bias"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))
            assert getattr(theirs, field).dtype == np.int32
    codes = np.random.default_rng(0).integers(-128, 128, (2, 2, 16, 12))
    expected, got = interpreter.trace(graph, codes), interpreter.trace(again, codes)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    before = path.read_bytes()
    write_model(again, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_file_is_safetensors_and_its_header_is_small(tmp_path):
    graph, path = unet(levels=3, by_shift=False), tmp_path / "model.safetensors"
    write_model(graph, path)
    tensors = load_file(path)
    assert set(tensors) == {node.name for node in graph.weight_nodes()}
    payload, header = payload_and_header_bytes(path)
    assert len(graph.weight_nodes()) == 15
    assert sum(tensor.size for tensor in tensors.values()) == payload
    assert header < 5000


def test_requantization_by_shift_stores_no_multipliers():
    shifts, multipliers = (encode_model(every_node(0, by_shift)) for by_shift in (True, False))
    assert len(shifts) < len(multipliers)


def test_a_rescale_of_equal_shifts_stores_nothing_and_one_of_different_shifts_a_tensor(tmp_path):
    graph = every_node(0)
    place = next(i for i, node in enumerate(graph.nodes) if isinstance(node, Rescale))
    node = graph.nodes[place]
    assert isinstance(node, Rescale)
    for shift, stored in (([1, 1, 1], False), ([0, 1, 2], True)):
        stage = replace(node.requantize, shift=np.array(shift, np.int32))
        nodes = (*graph.nodes[:place], replace(node, requantize=stage), *graph.nodes[place + 1 :])
        write_model(replace(graph, nodes=nodes), tmp_path / "m")
        assert ("skip" in load_file(tmp_path / "m")) is stored
        again = read_model(tmp_path / "m").node("skip")
        assert isinstance(again, Rescale)
        assert again.requantize.shift.tolist() == shift


def test_extremes_survive():
    conv = Conv2d(
        "c",
        ("image",),
        np.array([[[[-128]]], [[[127]]]], np.int32),
        np.array([8, 8], np.int32),
        np.array([-(2**31) + 2**14, 2**31 - 1 - 2**14], np.int32),
        None,
        padding=0,
    )
    small = every_node(0, binary=False)
    graph = IntegerGraph((replace(small.input, channels=1), conv, replace(small.output, inputs=("c",))))
    again = decode_model(encode_model(graph)).weight_nodes()[0]
    assert again.bias.tolist() == conv.bias.tolist()
    assert again.weight.tolist() == conv.weight.tolist()


def test_logits_aligned_in_int32_survive():
    graph = every_node(0, binary=False)
    head = graph.weight_nodes()[-1]
    stage = Requantize(np.ones(3, np.int32), np.array([0, -2, -7], np.int32), INT32)
    nodes = tuple(replace(head, requantize=stage) if node is head else node for node in graph.nodes)
    again = decode_model(encode_model(IntegerGraph(nodes))).weight_nodes()[-1]
    assert again.requantize is not None
    assert (again.requantize.output, again.requantize.shift.tolist()) == (INT32, [0, -2, -7])


@pytest.mark.parametrize("metadata", [{"a": float("nan")}, {"a": float("inf")}, {"a": b""}, {"a": "x" * (1 << 20)}])
def test_metadata_that_is_no_small_json_is_refused(metadata):
    with pytest.raises(GraphError, match="metadata"):
        encode_model(IntegerGraph(every_node().nodes, metadata))


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        write_model(every_node(), tmp_path / "nowhere" / "m.safetensors")
    with pytest.raises(UserError, match=r"absent.*cannot be read"):
        read_model(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        read_model(tmp_path)


def with_header(header: object, payload: bytes = b"", text: str | None = None) -> bytes:
    raw = (json.dumps(header) if text is None else text).encode()
    return struct.pack("<Q", len(raw)) + raw + payload


def sealed(document: str) -> bytes:
    seal = base64.b64encode(hashlib.sha256(document.encode()).digest()).decode()
    return with_header({"__metadata__": {"quantunet": document, "sha256": seal}})


FOREIGN = {
    "empty": b"",
    "short": b"1234567",
    "random": random.Random(0).randbytes(4096),
    "a header longer than the file": struct.pack("<Q", 1 << 20) + b"{}",
    "a huge header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "no JSON": with_header(None, text="{nothing}"),
    "no object": with_header([1]),
    "not ASCII": struct.pack("<Q", 4) + b"\xff\xfe\x00\x01",
    "a key twice": with_header(None, text='{"a":1,"a":2}'),
    "NaN": with_header(None, text='{"__metadata__":NaN}'),
    "1e999": with_header(None, text='{"__metadata__":1e999}'),
    "huge number": with_header(None, text='{"__metadata__":' + "9" * 5000 + "}"),
    "deep": with_header(None, text="[" * 100_000),
    "deep in the document": sealed('{"format":1,"metadata":{"a":' + "[" * 100_000 + "}"),
    "deep value": sealed('{"format":' + "[" * 900 + "]" * 900 + ',"metadata":{},"nodes":[]}'),
    "deep record": sealed('{"format":1,"metadata":{},"nodes":[' + "[" * 900 + "]" * 900 + "]}"),
    "another format": sealed('{"format":2,"metadata":{},"nodes":[]}'),
    "a format that is true": sealed('{"format":true,"metadata":{},"nodes":[]}'),
    "no nodes": sealed('{"format":1,"metadata":{},"nodes":[]}'),
    "wrong hash": with_header({"__metadata__": {"quantunet": "{}", "sha256": "AAAA"}}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_with_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / "some file.safetensors"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(UserError, match=r"some file\.safetensors") as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    save_file({"conv.weight": np.zeros((4, 4), np.float32)}, tmp_path / "m.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="something else"):
        read_model(tmp_path / "m.safetensors")


def test_small_documents_that_ask_for_much_memory_are_refused():
    doubling = [["input", "a", [], 1, "u8", 1.0]]
    doubling += [["concat", f"c{i}", [i, i]] for i in range(60)]
    wide = [["input", "a", [], 1, "u8", 1.0], ["conv", "b", [0], 10**12, 3, 3, 1, 1, 1, 0, None, ""]]
    many = [["input", "a", [], 1, "u8", 1.0], ["conv", "b", [0], 16384, 31, 31, 1, 1, 8, 0, None, ""]]
    large = [["input", "a", [], 1, "u8", 1.0], *(["pool", f"p{i}", [i]] for i in range(900))]
    for records in (doubling, wide, many, [*large, ["threshold", "m", [900], 0]]):
        with pytest.raises(GraphError):
            decode_model(sealed(json.dumps({"format": 1, "metadata": {}, "nodes": records})))


def test_every_bit_counts():
    data = encode_model(every_node(1))
    for bit in random.Random(1).sample(range(8 * len(data)), 600):
        mutant = bytearray(data)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(GraphError):
            decode_model(bytes(mutant))


def test_every_truncation_and_every_appended_byte_is_refused():
    data = encode_model(every_node(1))
    for length in range(0, len(data), 3):
        with pytest.raises(GraphError):
            decode_model(data[:length])
    with pytest.raises(GraphError):
        decode_model(data + b"\0")


def test_fuzzed_files_are_refused_or_equal_to_the_original():
    output = subprocess.run(
        [sys.executable, str(BENCHMARK), "--mutations", "2000", "--json"], capture_output=True, check=True, text=True
    ).stdout
    counts = json.loads(output)
    assert counts["mutations"] == 2000
    assert counts["refused"] + counts["accepted_equal"] + counts["accepted_valid"] == 2000
    assert counts["accepted_different"] == counts["crashes"] == 0


@settings(max_examples=25, deadline=None)  # a graph is built and proven each time: no time limit on one example
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_random_graphs_round_trip(seed, by_shift, binary):
    graph = every_node(seed, by_shift, binary)
    assert equal(decode_model(encode_model(graph)), graph)


@pytest.mark.parametrize("seed", range(40))
def test_graphs_of_random_structure_round_trip(seed):
    graph = random_graph(seed)
    again = decode_model(encode_model(graph))
    codes = random_codes(graph, seed, images=1)
    assert equal(again, graph)
    assert np.array_equal(interpreter.run(again, codes), interpreter.run(graph, codes))


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    write_model(every_node(0), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_file.os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        write_model(every_node(1), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_example_of_the_specification_is_what_is_written():
    spec = (Path(__file__).parents[1] / "docs" / "integer_ir.md").read_text()
    conv = Conv2d(
        "head",
        ("image",),
        np.array([[1, -4], [-1, 0]], np.int32)[:, :, None, None],
        np.array([3, 1], np.int32),
        np.array([5, -6], np.int32),
        None,
        padding=0,
    )
    data = encode_model(IntegerGraph((Input("image", (), 2, IntFormat(8, True), 0.5), conv, ArgMax("mask", ("head",)))))
    length = struct.unpack_from("<Q", data)[0]
    assert f"{len(data)} bytes" in spec
    assert data[8 + length :].hex() == "".join(re.findall(r"^([0-9a-f]{2})   ", spec, re.MULTILINE))
    assert json.loads(data[8 : 8 + length])["__metadata__"]["quantunet"] in spec.splitlines()
