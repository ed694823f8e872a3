"""Joins a gateway with the LiteLLM, PostgreSQL, Redis and Qdrant of a host, and takes it apart again."""
