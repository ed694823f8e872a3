"""One async client for each outside system, each with a twin that needs none."""
