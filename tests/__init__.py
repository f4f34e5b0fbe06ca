"""The tests: `unit` mirrors the packages, `integration` runs against real brokers."""
