"""Embeddings by fastembed, for real, of a model that is made here: those of its own would have to be downloaded."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from hx_gateway.app import Parts, build_app
from hx_gateway.cache.meaning.cache import MeaningOptions
from hx_gateway.cache.meaning.embedding import EmbeddingFailed
from hx_gateway.cache.meaning.fastembed_embedder import FastEmbedder
from hx_gateway.settings import Settings, SettingsError
from tests.unit.cache.meaning.stand_ins import MemoryStore, answer_to, found_by, question, running_cache

MODEL = "minishlab/potion-base-8M"
# Words that mean the same have the same vector, which is what a model is for.
MEANINGS = {"reset": 0, "change": 0, "password": 1, "passphrase": 1, "weather": 2, "tomorrow": 3, "my": 4, "the": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the files of a static model of five dimensions: a tokenizer by words, and a vector for each."""
    folder = tmp_path / "model"
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *MEANINGS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    rows = [[0.0] * 5, *([1.0 if place == meaning else 0.0 for place in range(5)] for meaning in MEANINGS.values())]
    data = b"".join(struct.pack("<5f", *row) for row in rows)
    head = {"embeddings": {"dtype": "F32", "shape": [len(rows), 5], "data_offsets": [0, len(data)]}}
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return folder


async def test_a_model_in_a_folder_embeds_and_the_cache_finds_by_it(folder: Path, tmp_path: Path) -> None:
    embedder = FastEmbedder(MODEL, folder=folder, downloads=tmp_path / "downloads")
    options = MeaningOptions(budget=10.0)
    async with running_cache(embedder, MemoryStore(), options) as (cache, counted):
        asked = question("Reset my password")
        await cache.keep(asked, answer_to(asked), 60)
        await counted.until(1)
        found = await found_by(cache, question("change the passphrase", similarity=0.95))
        assert found is not None
        assert found.similarity == pytest.approx(1.0)
        assert await found_by(cache, question("weather tomorrow", similarity=0.5)) is None


async def test_the_loop_goes_on_while_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    embedder = FastEmbedder(MODEL, folder=folder, downloads=tmp_path / "downloads")

    def slowly() -> None:
        time.sleep(0.5)
        raise ValueError("no such model")

    embedder._load = slowly  # type: ignore[method-assign]
    embedding = asyncio.ensure_future(embedder.embed("text"))
    turns = 0
    while not embedding.done():
        await asyncio.sleep(0.001)
        turns += 1
    with pytest.raises(EmbeddingFailed, match="no such model"):
        await embedding
    assert turns > 20
    await embedder.close()


@pytest.mark.parametrize("model", [MODEL, "nobody/has-this"])
async def test_a_model_that_is_not_there_is_a_failure_with_its_reason(tmp_path: Path, model: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    embedder = FastEmbedder(model, folder=empty, downloads=tmp_path / "downloads")
    with pytest.raises(EmbeddingFailed):
        await embedder.embed("text")
    await embedder.close()


def test_without_the_package_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.cache.meaning.fastembed_embedder.PACKAGE", "no_such_package")
    settings = Settings.model_validate(
        {
            "HX_CACHE_EMBEDDING_MODEL": f"fastembed/{MODEL}",
            "PG_URL": "postgresql://hx@127.0.0.1:1/hx",
            "HX_DATA_DIR": str(tmp_path),
        }
    )
    with pytest.raises(SettingsError, match=r"hx-gateway\[fastembed\]"):
        build_app(settings, Parts(environ={}))


def test_nobody_imports_it_who_does_not_use_it() -> None:
    program = "import sys, hx_gateway.app; sys.exit('fastembed' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
