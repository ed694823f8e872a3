"""What a look brings: findings, each of one of a closed set of subjects, and what the looks are made on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from hx_gateway.gateway.model_config import ModelConfig, ModelConfigError, load_model_config
from hx_gateway.setting_sources import default_data_dir
from hx_gateway.settings import Settings
from hx_gateway.wiring.layout import Layout

State = Literal["ok", "problem", "note"]


class Subject(StrEnum):
    """What a finding is about. Each stands in the reference page of the doctor."""

    SETTINGS = "settings"
    DATA_DIRECTORY = "data directory"
    PERMISSIONS = "permissions"
    ACCOUNT = "account"
    DISK = "disk"
    OPEN_FILES = "open files"
    CLOCK = "clock"
    VERSIONS = "versions"
    DEPENDENCIES = "dependencies"
    POSTGRES = "PostgreSQL"
    POOLS = "pools"
    TENANTS = "tenants"
    SCHEMA = "schema"
    PARTITIONS = "partitions"
    REDIS = "Redis"
    REDIS_MEMORY = "Redis memory"
    QDRANT = "Qdrant"
    MODELS = "models"
    UPSTREAM = "upstream"
    TLS = "TLS"
    LITELLM = "LiteLLM"
    LANGFUSE = "Langfuse"
    CACHE = "response cache"
    MEANING = "cache by meaning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``remedy`` says what to do; a problem always has one."""

    subject: Subject
    state: State
    detail: str
    remedy: str = ""


def ok(subject: Subject, detail: str) -> Finding:
    """Return that all is well."""
    return Finding(subject, "ok", detail)


def note(subject: Subject, detail: str, remedy: str = "") -> Finding:
    """Return something to know, which keeps nothing from working."""
    return Finding(subject, "note", detail, remedy)


def problem(subject: Subject, detail: str, remedy: str) -> Finding:
    """Return something to correct."""
    return Finding(subject, "problem", detail, remedy)


def unreachable(subject: Subject, place: str, why: str, variable: str) -> Finding:
    """Return that nobody answers at ``place``, which ``variable`` names."""
    remedy = f"See whether it runs at {place} and lets this machine in; correct {variable}."
    return problem(subject, f"not reachable at {place}: {why}", remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is looked at. ``now`` is the wall clock, in seconds since 1970.

    ``env_files`` are those that settings were read from; ``litellm_python`` and ``litellm_config`` are the operator's
    word, else they are looked for in ``layout``'s units and files.
    """

    settings: Settings
    env_files: tuple[Path, ...] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = time.time
    layout: Layout = field(default_factory=lambda: Layout(Path("/")))
    litellm_python: Path | None = None
    litellm_config: Path | None = None

    @property
    def data_dir(self) -> Path:
        """Where state is kept, whether it is there or not."""
        return (self.settings.data_dir or default_data_dir(self.environ)).expanduser().absolute()

    @property
    def journal_dir(self) -> Path:
        """Where events wait for the database."""
        return self.settings.journal_dir or self.data_dir / "journal"

    @property
    def model_config(self) -> ModelConfig | None:
        """The file of models, ``None`` where there is none that can be read."""
        path = self.settings.model_config_file
        if path is None:
            return None
        try:
            return load_model_config(path, self.environ, direct=self.settings.litellm_base_url is None)
        except ModelConfigError:
            return None
