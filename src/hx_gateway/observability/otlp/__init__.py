"""OTLP/HTTP traces as plain functions: bytes in, spans and rows out."""
