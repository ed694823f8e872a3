"""Vectors that are fit to be compared."""

from __future__ import annotations

import math

import pytest

from hx_gateway.cache.meaning.embedding import MAX_DIMENSIONS, EmbeddingFailed, unit


def test_a_vector_gets_the_length_one() -> None:
    assert unit([3.0, -4.0]) == [0.6, -0.8]


@pytest.mark.parametrize(
    "vector", [[], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [1.7e308, 1.7e308], [1.0] * (MAX_DIMENSIONS + 1)]
)
def test_what_has_no_direction_is_refused(vector: list[float]) -> None:
    with pytest.raises(EmbeddingFailed):
        unit(vector)


def test_another_size_is_refused() -> None:
    assert unit([1.0, 0.0], 2) == [1.0, 0.0]
    with pytest.raises(EmbeddingFailed):
        unit([1.0, 0.0], 3)
