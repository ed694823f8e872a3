"""Tests of the official registry's API, without a database."""
