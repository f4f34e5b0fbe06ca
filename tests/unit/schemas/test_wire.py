from __future__ import annotations

import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fastavro import schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas import wire
from schemas.avro import current, fingerprint
from schemas.dead_letter import Reason
from schemas.records import Document, Embedding
from schemas.wire import (
    EmbeddingFields,
    WireError,
    WireReason,
    decode_document,
    decode_embedding,
    decode_embedding_fields,
    encode_document,
    encode_embedding,
)
from tests.unit.schemas.strategies import documents, embeddings
from tests.unit.schemas.test_records import DOCUMENT, EMBEDDING

Vector = NDArray[np.float32]

DOCUMENT_HEADER = b"\xc3\x01" + fingerprint(current("document"))
EMBEDDING_HEADER = b"\xc3\x01" + fingerprint(current("embedding"))
FIELDS: Any = {name: value for name, value in EMBEDDING.items() if name != "vector"}
VECTOR: Vector = EMBEDDING["vector"]
ROOT = Path(__file__).parents[3]


def plain_write(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    """Return the datum that fastavro alone writes."""
    stream = BytesIO()
    schemaless_writer(stream, schema, record)
    return stream.getvalue()


def plain_read(schema: dict[str, Any], datum: bytes) -> dict[str, Any]:
    """Return the record that fastavro alone reads, which must be all of the datum."""
    stream = BytesIO(datum)
    record = schemaless_reader(stream, schema, None)
    assert stream.read() == b""
    assert isinstance(record, dict)
    return record


def moment(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def long(value: int) -> bytes:
    """Return an Avro long as fastavro writes it."""
    stream = BytesIO()
    schemaless_writer(stream, {"type": "long"}, value)
    return stream.getvalue()


@given(documents())
def test_a_document_comes_back_as_it_went(document: Document) -> None:
    assert decode_document(encode_document(document)) == document


@given(documents())
def test_a_documents_bytes_are_the_header_and_what_fastavro_writes(document: Document) -> None:
    data = encode_document(document)
    assert data == DOCUMENT_HEADER + plain_write(current("document"), document.model_dump())
    read = plain_read(current("document"), data[10:])
    assert read == document.model_dump() | {"version": moment(document.version)}


@given(embeddings())
def test_an_embedding_comes_back_as_it_went(embedding: tuple[EmbeddingFields, Vector]) -> None:
    fields, vector = embedding
    data = encode_embedding(fields, vector)
    assert decode_embedding_fields(data) == fields
    assert decode_embedding(data) == Embedding.model_validate({**fields, "vector": vector})


@given(embeddings())
def test_an_embeddings_bytes_are_the_header_and_what_fastavro_writes(
    embedding: tuple[EmbeddingFields, Vector],
) -> None:
    fields, vector = embedding
    record = {**fields, "vector": vector.tolist()}
    data = encode_embedding(fields, vector)
    assert data == EMBEDDING_HEADER + plain_write(current("embedding"), record)
    times = {name: moment(record[name]) for name in ("document_version", "embedded_at")}
    assert plain_read(current("embedding"), data[10:]) == record | times


def test_a_time_after_the_year_9999_is_read_as_the_number_it_is() -> None:
    document = Document.model_validate(DOCUMENT | {"version": 2**62})
    assert decode_document(encode_document(document)).version == 2**62


def test_nan_and_infinity_keep_their_bits() -> None:
    vector = np.array([np.nan, np.inf, -0.0], np.float32)
    assert decode_embedding(encode_embedding(FIELDS, vector)).vector.tobytes() == vector.tobytes()


def test_a_decoded_vector_is_aligned_and_has_memory_of_its_own() -> None:
    vector = decode_embedding(encode_embedding(FIELDS, VECTOR)).vector
    assert vector.flags.aligned
    assert vector.flags.writeable
    assert vector.dtype == np.float32


def test_a_strided_vector_is_written_as_its_values() -> None:
    strided = np.repeat(VECTOR, 2)[::2]
    assert encode_embedding(FIELDS, strided) == encode_embedding(FIELDS, VECTOR)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.float32), np.zeros((3, 1), np.float32), np.zeros(3, np.float64), np.zeros(3, ">f4")],
)
def test_a_vector_of_another_shape_or_type_is_not_written(vector: Any) -> None:
    with pytest.raises(ValueError, match=r"not float32\[3\]"):
        encode_embedding(FIELDS, vector)


def test_a_vector_without_dimensions_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"float32\[0\]"):
        encode_embedding(FIELDS | {"dim": 0}, np.empty(0, np.float32))


def test_a_lone_surrogate_is_not_written() -> None:
    document = Document.model_validate(DOCUMENT | {"content": "a\ud83d"})
    with pytest.raises(WireError, match=r"invalid: .* U\+D83D"):
        encode_document(document)
    with pytest.raises(WireError, match=r"invalid: .* U\+D83D"):
        encode_embedding(FIELDS | {"text": "a\ud83d"}, VECTOR)


@pytest.mark.parametrize("number", [2**63, -1])
def test_a_negative_number_or_one_of_more_than_63_bits_is_not_written(number: int) -> None:
    with pytest.raises(WireError, match="invalid"):
        encode_embedding(FIELDS | {"embedded_at": number}, VECTOR)


# Bytes of records as the first release wrote them: they must stay readable for ever.
def test_a_document_of_the_first_release_is_still_readable() -> None:
    data = bytes.fromhex(
        "c301e3b8b10779a09069186361706974616c2f6368303180a0d5edee663a546865207765616c7468206f6620"
        "74686f736520736f636965746965738001303132333435363738396162636465663031323334353637383961"
        "626364656630313233343536373839616263646566303132333435363738396162636465661e636170697461"
        "6c2f636830312e6d640206808020020a7469746c650e4361706974616c00"
    )
    assert decode_document(data) == Document.model_validate(DOCUMENT)


def test_an_embedding_of_the_first_release_is_still_readable() -> None:
    data = bytes.fromhex(
        "c301f8c285312d5a80e64863306335613561312d386230622d356630652d396435352d306431633262376337"
        "663365186361706974616c2f6368303180a0d5edee6680013031323334353637383961626364656630313233"
        "3435363738396162636465663031323334353637383961626364656630313233343536373839616263646566"
        "12646f63756d656e7473065402060004808020ba8020023a546865207765616c7468206f662074686f736520"
        "736f636965746965730e2c424141492f6267652d6c617267652d656e2d76312e351038663134653435660866"
        "7031360600c0bae1edee66060000003f000080bf0000004000"
    )
    assert decode_embedding(data) == Embedding.model_validate(EMBEDDING)


def test_a_record_of_an_older_schema_is_resolved_to_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Between them and the current ones: a field that is gone, and an int that became a long.
    old = {"document": current("document"), "embedding": current("embedding")}
    for schema in old.values():
        schema["fields"].insert(2, {"name": "shard", "type": "string"})
    start_char = next(field for field in old["embedding"]["fields"] if field["name"] == "start_char")
    assert start_char["type"] == "long"
    start_char["type"] = "int"
    monkeypatch.setattr(wire, "released", lambda name: {fingerprint(old[name]): old[name]})
    monkeypatch.setattr(wire, "_DOCUMENT", wire._load("document"))
    monkeypatch.setattr(wire, "_EMBEDDING", wire._load("embedding"))

    def framed(name: str, record: dict[str, Any]) -> bytes:
        datum = plain_write(old[name], record | {"shard": "0001"})
        return b"\xc3\x01" + fingerprint(old[name]) + datum

    document = framed("document", DOCUMENT)
    assert decode_document(document) == Document.model_validate(DOCUMENT)
    embedding = framed("embedding", FIELDS | {"vector": VECTOR.tolist()})
    assert decode_embedding(embedding) == Embedding.model_validate(EMBEDDING)
    assert decode_embedding_fields(embedding) == FIELDS


def test_confluent_framing_is_read_with_the_current_schema() -> None:
    frame = b"\x00" + (7).to_bytes(4, "big")
    document, embedding = Document.model_validate(DOCUMENT), Embedding.model_validate(EMBEDDING)
    assert decode_document(frame + encode_document(document)[10:]) == document
    assert decode_embedding(frame + encode_embedding(FIELDS, VECTOR)[10:]) == embedding


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8))
def test_a_vector_is_read_whatever_blocks_it_was_written_in(blocks: list[tuple[int, bool]]) -> None:
    vector = np.arange(sum(size for size, _ in blocks), dtype=np.float32)
    fields: Any = {**FIELDS, "dim": vector.size}
    data = encode_embedding(fields, vector)
    foreign = data[: -(len(long(vector.size)) + vector.nbytes + 1)]
    start = 0
    for size, with_bytes in blocks:
        foreign += long(-size) + long(4 * size) if with_bytes else long(size)
        foreign += vector[start : start + size].tobytes()
        start += size
    foreign += b"\x00"
    np.testing.assert_array_equal(plain_read(current("embedding"), foreign[10:])["vector"], vector)
    np.testing.assert_array_equal(decode_embedding(foreign).vector, vector)
    assert decode_embedding_fields(foreign) == fields


def refused(decode: Any, data: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(data)
    assert str(caught.value).startswith(f"{caught.value.reason}: ")
    assert "\n" not in str(caught.value)
    return caught.value


DECODERS = pytest.mark.parametrize("decode", [decode_document, decode_embedding, decode_embedding_fields])
EMBEDDING_DECODERS = pytest.mark.parametrize("decode", [decode_embedding, decode_embedding_fields])


@DECODERS
@pytest.mark.parametrize("data", [b"", b"\xc3", b'{"id": "a"}', b"Obj\x01", b"\x01\xc3"])
def test_a_value_of_no_known_framing_is_not_avro(decode: Any, data: bytes) -> None:
    assert refused(decode, data).reason == "not_avro"


@DECODERS
def test_a_fingerprint_of_no_released_schema_is_unknown(decode: Any) -> None:
    error = refused(decode, b"\xc3\x01" + bytes(range(8)) + b"\x00")
    assert error.reason == "unknown_schema"
    assert "0001020304050607" in str(error)


def test_a_document_is_no_embedding_and_an_embedding_no_document() -> None:
    document = encode_document(Document.model_validate(DOCUMENT))
    assert refused(decode_embedding, document).reason == "unknown_schema"
    assert refused(decode_document, encode_embedding(FIELDS, VECTOR)).reason == "unknown_schema"


@pytest.mark.parametrize("framing", [b"", b"\x00\x00\x00\x00\x01"])
def test_a_record_cut_short_anywhere_is_refused(framing: bytes) -> None:
    def cut(data: bytes) -> list[bytes]:
        framed = framing + data[10:] if framing else data
        return [framed[:length] for length in range(2, len(framed))]

    for data in cut(encode_document(Document.model_validate(DOCUMENT))):
        assert refused(decode_document, data).reason == "corrupt"
    for data in cut(encode_embedding(FIELDS, VECTOR)):
        assert refused(decode_embedding, data).reason == "corrupt"
        assert refused(decode_embedding_fields, data).reason == "corrupt"


def test_bytes_after_the_record_are_refused() -> None:
    document = encode_document(Document.model_validate(DOCUMENT))
    embedding = encode_embedding(FIELDS, VECTOR)
    for extra in (b"\x00", b"\x02", document):
        assert refused(decode_document, document + extra).reason == "corrupt"
        assert refused(decode_embedding, embedding + extra).reason == "corrupt"
        assert refused(decode_embedding_fields, embedding + extra).reason == "corrupt"


def test_text_that_is_not_utf_8_is_corrupt() -> None:
    document = Document.model_validate(DOCUMENT | {"content": "caf\u00e9"})
    data = encode_document(document).replace("\u00e9".encode(), b"\xe9z")
    assert refused(decode_document, data).reason == "corrupt"


@pytest.mark.parametrize(
    "change",
    [
        {"version": -1},
        {"content_hash": "abc"},
        {"id": ""},
        {"segment": {"index": 1, "count": 1, "start_char": 0}},
    ],
    ids=str,
)
def test_a_document_that_contradicts_itself_is_invalid(change: dict[str, Any]) -> None:
    error = refused(decode_document, DOCUMENT_HEADER + plain_write(current("document"), DOCUMENT | change))
    assert error.reason == "invalid"
    assert next(iter(change)) in str(error)


@EMBEDDING_DECODERS
@pytest.mark.parametrize(
    "change",
    [{"dim": 2}, {"dim": 0}, {"start_char": 10**9}, {"passage": {"index": 2, "count": 2}}, {"vector": []}],
    ids=str,
)
def test_an_embedding_that_contradicts_itself_is_invalid(decode: Any, change: dict[str, Any]) -> None:
    record = {**FIELDS, "vector": VECTOR.tolist(), **change}
    error = refused(decode, EMBEDDING_HEADER + plain_write(current("embedding"), record))
    assert error.reason == "invalid"


def test_an_int_of_more_than_32_bits_is_invalid() -> None:
    wide = current("embedding")
    assert wide["fields"][14]["name"] == "dim"
    wide["fields"][14]["type"] = "long"
    record = {**FIELDS, "dim": 2**31, "vector": VECTOR.tolist()}
    data = EMBEDDING_HEADER + plain_write(wide, record)
    assert refused(decode_embedding, data).reason == "invalid"


LIES = [2**31, 2**60, 2**62, 2**63 - 1, -(2**62), -(2**63), -1]


@pytest.mark.parametrize("lie", LIES)
def test_a_length_or_count_that_lies_is_corrupt_and_takes_no_memory(lie: int) -> None:
    embedding = encode_embedding(FIELDS, VECTOR)
    before_vector = embedding[: -(1 + VECTOR.nbytes + 1)]
    assert FIELDS["metadata"] == {}
    before_metadata = before_vector[: -(len(long(FIELDS["embedded_at"])) + 1)]
    liars = [
        (decode_document, DOCUMENT_HEADER + long(lie) + b"a" * 20),
        (decode_embedding, EMBEDDING_HEADER + long(lie) + b"a" * 20),
        (decode_embedding, before_metadata + long(lie) + long(lie) + b"\x02a\x02b"),
        (decode_embedding, before_vector + long(lie)),
        (decode_embedding, before_vector + long(lie) + VECTOR.tobytes() + b"\x00"),
        (decode_embedding, before_vector + long(-abs(lie)) + long(lie) + VECTOR.tobytes() + b"\x00"),
        (decode_embedding, before_vector + long(-3) + long(lie) + VECTOR.tobytes() + b"\x00"),
        (decode_embedding_fields, before_vector + long(lie)),
    ]
    tracemalloc.start()
    try:
        for decode, data in liars:
            assert refused(decode, data).reason == "corrupt"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_number_that_never_ends_is_corrupt() -> None:
    embedding = encode_embedding(FIELDS, VECTOR)
    before_vector = embedding[: -(1 + VECTOR.nbytes + 1)]
    for data in (before_vector, EMBEDDING_HEADER):
        assert refused(decode_embedding, data + b"\xff" * 100_000).reason == "corrupt"
    padded_count = b"\x86" + b"\x80" * 9 + b"\x00"
    data = before_vector + padded_count + VECTOR.tobytes() + b"\x00"
    assert refused(decode_embedding, data).reason == "corrupt"


def test_every_wire_reason_is_a_reason_of_a_dead_letter() -> None:
    for reason in get_args(WireReason):
        assert Reason(reason) == reason


def test_schemas_need_neither_torch_nor_the_daemons_packages() -> None:
    modules = sorted(f"schemas.{path.stem}" for path in (ROOT / "schemas").glob("[a-z]*.py"))
    assert "schemas.wire" in modules
    code = (
        f"import sys, {', '.join(modules)}\n"
        "print({'torch', 'confluent_kafka', 'embedstream', 'producer', 'consumer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
