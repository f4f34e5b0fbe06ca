"""The records of embedstream's topics: Avro schemas, pydantic models and the wire format."""
