"""Embeddings in the process, by the optional package fastembed, which is imported here alone and when first needed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hx_gateway.cache.meaning.embedding import EmbeddingFailed

PACKAGE = "fastembed"
PREFIX = f"{PACKAGE}/"


def is_installed() -> bool:
    """Return whether the package is there; it is not imported for that."""
    return importlib.util.find_spec(PACKAGE) is not None


class FastEmbedder:
    """One of fastembed's models, on a thread of its own: importing, loading and computing never hold up the loop.

    ``folder`` holds the model's files; without it they are downloaded into ``downloads``, from a hub that fastembed
    chooses, when the first text comes.
    """

    def __init__(self, model: str, *, folder: Path | None, downloads: Path) -> None:
        self._name = model
        self._folder = folder
        self._downloads = downloads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hx-embedding")
        self._model: Any = None

    @property
    def name(self) -> str:
        """The model's name, with the package's before it."""
        return PREFIX + self._name

    async def embed(self, text: str) -> Sequence[float]:
        """Return the vector of ``text``. Who is cancelled does not stop a computation that has begun."""
        embedding = asyncio.get_running_loop().run_in_executor(self._thread, self._embed, text)
        try:
            await asyncio.wait([embedding])
        finally:
            embedding.cancel()
        error = embedding.exception()
        if error is not None:
            # Whatever it is: of the package, its hub and its runtime nobody lists the errors.
            raise EmbeddingFailed(f"{type(error).__name__}: {error}") from error
        return embedding.result()

    async def close(self) -> None:
        """Let the thread end with what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, text: str) -> list[float]:
        if self._model is None:
            self._model = self._load()
        vector: list[float] = next(iter(self._model.embed([text]))).tolist()
        return vector

    def _load(self) -> Any:
        options: dict[str, object] = {"cache_dir": str(self._downloads)}
        if self._folder is not None:
            options["specific_model_path"] = str(self._folder)
        return importlib.import_module(PACKAGE).TextEmbedding(model_name=self._name, **options)
