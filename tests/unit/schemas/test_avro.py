from __future__ import annotations

from io import BytesIO
from typing import get_args

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.utils import generate_one

from schemas.avro import RecordName, current, fingerprint, released
from schemas.records import Document, Embedding

NAMES = get_args(RecordName)


@pytest.mark.parametrize(
    ("schema", "number"), [({"type": "null"}, 0x63DD24E7CC258F8A), ({"type": "int"}, 0x7275D51A3F395C8F)]
)
def test_a_fingerprint_is_that_of_the_avro_specification_in_little_endian(
    schema: dict[str, str], number: int
) -> None:
    assert fingerprint(schema) == number.to_bytes(8, "little")


# These change only together with a new file in schemas/released.
@pytest.mark.parametrize(
    ("name", "fingerprints"), [("document", ["e3b8b10779a09069"]), ("embedding", ["f8c285312d5a80e6"])]
)
def test_no_released_schema_has_changed(name: RecordName, fingerprints: list[str]) -> None:
    assert [key.hex() for key in released(name)] == fingerprints


@pytest.mark.parametrize("name", NAMES)
def test_the_current_schema_is_the_last_one_released(name: RecordName) -> None:
    assert list(released(name).values())[-1] == current(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_released_schema_resolves_to_the_current_one(name: RecordName) -> None:
    for schema in released(name).values():
        stream = BytesIO()
        schemaless_writer(stream, schema, generate_one(schema))
        stream.seek(0)
        record = schemaless_reader(stream, schema, current(name))
        assert isinstance(record, dict)
        assert list(record) == [field["name"] for field in current(name)["fields"]]


def test_the_vector_is_the_last_field_of_every_released_embedding() -> None:
    for schema in released("embedding").values():
        assert schema["fields"][-1]["name"] == "vector"
        assert schema["fields"][-1]["type"] == {"type": "array", "items": "float"}


def test_the_models_have_the_fields_of_the_schemas_in_their_order() -> None:
    assert list(Document.model_fields) == [field["name"] for field in current("document")["fields"]]
    assert list(Embedding.model_fields) == [field["name"] for field in current("embedding")["fields"]]
