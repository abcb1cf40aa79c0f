"""The model file: a valid safetensors file of bit-packed codes; ``docs/integer_ir.md`` describes it byte by byte.

One graph has exactly one file: what ``read_model`` accepts is what ``write_model`` would write again, to the byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from quantunet.atomic_file import write_atomically
from quantunet.errors import UserError
from quantunet.ir import ranges
from quantunet.ir.graph import GraphError, IntegerGraph
from quantunet.ir.node_records import RecordError, node_to_record, record_to_node
from quantunet.ir.validate import validate

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
"""A U-Net of 31 million weights at 8 bits is 2^25 bytes: larger files are foreign."""


def write_model(graph: IntegerGraph, path: Path | str) -> int:
    """Write ``graph`` to ``path`` atomically and return the length of the file in bytes.

    Raises:
        GraphError: if the graph is not well formed, or an accumulator could overflow.
        UserError: if the file cannot be written.
    """
    path = Path(path)
    data = encode_model(graph)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): choose another place") from None
    return len(data)


def read_model(path: Path | str) -> IntegerGraph:
    """The graph in the file at ``path``, its hashes verified, its form checked and its accumulators proven.

    Raises:
        UserError: if there is no such file, or it is no intact model file; one line that names the file.
    """
    return _decode_file(Path(path), _read_bounded(Path(path)))


def payload_and_header_bytes(path: Path | str) -> tuple[int, int]:
    """``(payload, header)`` in bytes: packed codes, and the rest; together the length of the file.

    Raises:
        UserError: as ``read_model``.
    """
    data = _read_bounded(Path(path))
    _decode_file(Path(path), data)
    header = 8 + struct.unpack_from("<Q", data)[0]
    return len(data) - header, header


def encode_model(graph: IntegerGraph) -> bytes:
    """The bytes of the model file; equal graphs give equal bytes.

    Raises:
        GraphError: if the graph is not well formed, an accumulator could overflow, or the metadata is no finite JSON.
    """
    validate(graph)
    ranges.prove(graph)
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    records, tensors, payload = [], {}, bytearray()
    for node in graph.nodes:
        record, packed = node_to_record(node, position)
        if packed:
            record.append(base64.b64encode(hashlib.sha256(packed).digest()).decode("ascii"))
            begin, end = len(payload), len(payload) + len(packed)
            tensors[node.name] = {"dtype": "U8", "shape": [len(packed)], "data_offsets": [begin, end]}
            payload += packed
        records.append(record)
    try:
        document = _dump({"format": FORMAT_VERSION, "metadata": dict(graph.metadata), "nodes": records})
    except (TypeError, ValueError, RecursionError) as error:
        raise GraphError(f"the graph's metadata cannot be written as JSON: {error}") from None
    seal = base64.b64encode(hashlib.sha256(document.encode("ascii")).digest()).decode("ascii")
    header = json.dumps(
        {"__metadata__": {"quantunet": document, "sha256": seal}, **tensors}, separators=(",", ":")
    ).encode("ascii")
    header += b" " * (-len(header) % 8)  # safetensors aligns the payload to 8 bytes
    if len(header) > MAX_HEADER_BYTES:
        raise GraphError(f"the header takes {len(header)} bytes, more than {MAX_HEADER_BYTES}: shorten the metadata")
    return struct.pack("<Q", len(header)) + header + bytes(payload)


def decode_model(data: bytes) -> IntegerGraph:
    """The graph that ``encode_model`` wrote as ``data``.

    Raises:
        GraphError: if ``data`` is anything else.
    """
    header, payload = _split(data)
    facts = header.get("__metadata__")
    if not isinstance(facts, dict) or not isinstance(facts.get("quantunet"), str):
        raise GraphError("a safetensors file of something else: export a model with quantunet")
    document = facts["quantunet"]
    digest = hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()
    if facts.get("sha256") != base64.b64encode(digest).decode("ascii"):
        raise GraphError("the SHA-256 of its graph is wrong: the file is damaged, copy it again")
    graph = _decode_graph(_load(document), header, payload)
    validate(graph)
    ranges.prove(graph)
    if encode_model(graph) != data:
        raise GraphError("it is not written as quantunet writes it: the file is damaged, copy it again")
    return graph


def _decode_file(path: Path, data: bytes) -> IntegerGraph:
    try:
        return decode_model(data)
    except GraphError as error:
        raise UserError(f"{path}: no valid quantunet model: {error}") from None


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        raise GraphError(f"{len(data)} bytes are too few for a model: the file is truncated")
    length = struct.unpack_from("<Q", data)[0]
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise GraphError(f"its header cannot be {length} bytes long: the file is truncated or something else")
    try:
        header = _load(data[8 : 8 + length].decode("ascii"))
    except UnicodeDecodeError:
        raise GraphError("its header is no ASCII text: the file is damaged or something else") from None
    if not isinstance(header, dict):
        raise GraphError("its header is no JSON object: the file is damaged or something else")
    return header, memoryview(data)[8 + length :]


def _decode_graph(document: Any, header: Mapping[str, Any], payload: memoryview) -> IntegerGraph:
    if not isinstance(document, dict) or set(document) != {"format", "metadata", "nodes"}:
        raise GraphError("its graph has not the fields format, metadata and nodes")
    if type(document["format"]) is not int or document["format"] != FORMAT_VERSION:
        raise GraphError(f"this program reads format {FORMAT_VERSION}, it has another: update quantunet")
    if not isinstance(document["metadata"], dict) or not isinstance(document["nodes"], list):
        raise GraphError("its metadata or its list of nodes is of a wrong kind")
    nodes, channels = [], {}
    for position, record in enumerate(document["nodes"]):
        try:
            nodes.append(record_to_node(record, nodes, channels, lambda name: _tensor(header, payload, name)))
        except RecordError as error:
            raise GraphError(f"node {position}: {error}") from None
    return IntegerGraph(tuple(nodes), document["metadata"])


def _tensor(header: Mapping[str, Any], payload: memoryview, name: str) -> bytes:
    try:
        begin, end = header[name]["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise RecordError(f"the file holds no tensor {name[:100]!r}") from None
    if not (type(begin) is int and type(end) is int and 0 <= begin <= end <= len(payload)):
        raise RecordError(f"its tensor leaves the file, which is {len(payload)} bytes of payload: truncated")
    return bytes(payload[begin:end])


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _load(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise GraphError(f"its header is no plain JSON ({reason}): the file is damaged or something else") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite_float(text: str) -> float:
    value = float(text)
    if value - value != 0.0:  # infinity, from an exponent too large
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_FILE_BYTES:
                return file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): give a model.safetensors") from None
    raise UserError(f"{path}: {size} bytes are too many for a quantunet model: give a model.safetensors")
