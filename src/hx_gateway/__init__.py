"""HX Gateway: one program with three planes (gateway, registry, observability) on one durable data layer."""

__version__ = "0.1.0"
