"""A Containerfile as data: its stages and their instructions."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: what it is made from, and instructions with their words as written."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Return the words of every ``instruction``."""
        return [words for name, words in self.instructions if name == instruction]

    def only(self, instruction: str) -> str:
        """Return the words of the one ``instruction``."""
        (words,) = self.all(instruction)
        return words


def read_stages(path: Path) -> dict[str, Stage]:
    """Return the stages by name, in their order, with the values of arguments before the first one filled in."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        instruction, _, words = line.strip().partition(" ")
        if instruction == "ARG" and not stages:
            name, _, arguments[name] = words.partition("=")
        elif instruction == "FROM":
            image, _, name = words.partition(" AS ")
            parent = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], image)
            stages[name] = Stage(name, parent)
        elif instruction:
            list(stages.values())[-1].instructions.append((instruction, " ".join(words.split())))
    return stages


def assignments(words: list[str]) -> dict[str, str]:
    """Return what ``ENV`` or ``LABEL`` instructions set."""
    return dict(pair.split("=", 1) for line in words for pair in shlex.split(line))


def exec_form(words: str) -> list[str]:
    """Return the command of ``CMD [...]``, without what stands before it."""
    command: list[str] = json.loads(words[words.index("[") :])
    return command
