"""What has to change so that a host is wired or unwired: worked out, and checked, before anything changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from hx_gateway.wiring.accounts import ServiceAccount, find_account
from hx_gateway.wiring.drop_ins import cache_drop_in, database_drop_in
from hx_gateway.wiring.env_file import EnvFileProblem, remove_variable, set_variable, value_of
from hx_gateway.wiring.files import (
    ABSENT,
    FOLDER,
    Change,
    FileProblem,
    Owner,
    State,
    check_possible,
    look,
    text_of,
)
from hx_gateway.wiring.inputs import Stores
from hx_gateway.wiring.layout import CACHE_DROP_IN, CORE_UNIT, DATABASE_DROP_IN, UNITS, WRAPPER_UNIT, Layout
from hx_gateway.wiring.litellm_config import Edited, unwired, wired
from hx_gateway.wiring.report import Step
from hx_gateway.wiring.yaml_tree import YamlProblem

SECRETS_MODE = 0o640
OPEN_MODE = 0o644
CORE_URL = "http://127.0.0.1:4000"
EMBEDDED, DEFAULT_RPM = ("HX_EMBEDDED", "off"), ("HX_DEFAULT_KEY_RPM", "60")
# What the wrapper of a wired host runs with, where nobody said something else.
SETTINGS = (
    ("WRAPPER_HOST", "0.0.0.0"),  # noqa: S104 - a service for other hosts; HX_ADMIN_KEY or keys are asked for
    ("WRAPPER_PORT", "4010"),
    ("WRAPPER_LOG_LEVEL", "INFO"),
    ("LITELLM_BASE_URL", CORE_URL),
    EMBEDDED,
    DEFAULT_RPM,
    ("HEALTH_CHECK_INTERVAL", "30"),
    ("HEALTH_CHECK_TIMEOUT", "5"),
    ("PG_MIN_CONNECTIONS", "1"),
    ("PG_MAX_CONNECTIONS", "5"),
    ("REDIS_MAX_CONNECTIONS", "10"),
    ("ENABLE_DB_GUARD", "true"),
    ("ENABLE_HEALTH_ENDPOINTS", "true"),
)
CACHE_URL = "LITELLM_REDIS_URL"
STORE_VARIABLES = ("DATABASE_URL", "PG_URL", "REDIS_URL", CACHE_URL, "QDRANT_URL", "QDRANT_API_KEY")
OFF = frozenset({"off", "false", "no", "0"})


@dataclass(slots=True)
class Part:
    """What one step changes, or the problem that keeps it from being one. ``notes`` are told either way."""

    name: str
    changes: list[Change] = field(default_factory=list)
    detail: str = ""
    problem: Step | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CacheUnits:
    """Which units get the drop-in of the cache."""

    core: bool = False
    wrapper: bool = False


class Planner:
    """Plans for one installation. ``account`` names the services' account."""

    def __init__(self, layout: Layout, account: str) -> None:
        self.layout = layout
        self.account_name = account
        self.account: ServiceAccount | None = find_account(layout, account)

    def wire(self, stores: Stores, cache: CacheUnits) -> list[Part]:
        """Return the parts that wire: secrets come before what refers to them."""
        drop_ins = [(unit, DATABASE_DROP_IN, database_drop_in(self.layout, unit)) for unit in UNITS]
        drop_ins += [(CORE_UNIT, CACHE_DROP_IN, cache_drop_in())] if cache.core else []
        drop_ins += [(WRAPPER_UNIT, CACHE_DROP_IN, cache_drop_in())] if cache.wrapper else []
        return [
            self._part("gateway.env", lambda part: self._secrets(part, stores, cache)),
            self._part("gateway-wrapper.env", self._settings),
            self._part("config.yaml", lambda part: self._config(part, wired)),
            self._part("link to config.yaml", self._link),
            *(self._drop_in(unit, name, text) for unit, name, text in drop_ins),
        ]

    def unwire(self) -> list[Part]:
        """Return the parts that unwire: what refers to secrets goes before them."""
        names = [(unit, name) for unit in UNITS for name in (CACHE_DROP_IN, DATABASE_DROP_IN)]
        return [
            *(self._part(f"{unit} {name}", self._without_drop_in(unit, name)) for unit, name in names),
            self._part("config.yaml", lambda part: self._config(part, unwired)),
            self._part("gateway-wrapper.env", self._embedded_settings),
            self._part("gateway.env", self._without_stores),
        ]

    # One part each

    def _part(self, name: str, fill: Callable[[Part], None]) -> Part:
        part = Part(name)
        try:
            fill(part)
            for change in part.changes:
                check_possible(change)
        except FileProblem as problem:
            part.problem = Step(name, "fail", str(problem), problem.remedy)
        except OSError as error:
            remedy = (
                "Run this as root." if isinstance(error, PermissionError) else "See to that path, then run this again."
            )
            part.problem = Step(name, "fail", f"{error.filename}: {error.strerror}", remedy)
        return part

    def _secrets(self, part: Part, stores: Stores, cache: CacheUnits) -> None:
        path, before, text = self._env_file(self.layout.secrets)
        owner = before.owner or self._owner_of_secrets(path, part)
        self._check_private(path, before)
        values = {"DATABASE_URL": stores.postgres, "PG_URL": stores.postgres, "REDIS_URL": stores.redis}
        values |= {"QDRANT_URL": stores.qdrant, "DISABLE_ADMIN_UI": "true"}
        if stores.qdrant_api_key is not None:
            values["QDRANT_API_KEY"] = stores.qdrant_api_key
        if cache.core or cache.wrapper or value_of(text, CACHE_URL) is not None:
            values[CACHE_URL] = stores.redis
        self._set_all(part, path, before, owner, text, values)

    def _owner_of_secrets(self, path: Path, part: Part) -> Owner:
        us, group = os.geteuid(), self.account.gid if self.account is not None else None
        if group is not None and (us == 0 or group in (os.getegid(), *os.getgroups())):
            return Owner(SECRETS_MODE, us, group)
        if not self.layout.is_staging:
            remedy = f"Make it: useradd --system --user-group --no-create-home {self.account_name}."
            remedy = remedy if self.account is None else "Run this as root."
            raise FileProblem(path, f"cannot be given to the group {self.account_name!r}", remedy)
        part.notes.append(f"gateway.env is 0600: give it to root:{self.account_name}, 0640, where it is installed")
        return Owner(0o600, us, os.getegid())

    def _check_private(self, path: Path, before: State) -> None:
        owner = before.owner
        if owner is None:
            return
        right = f"chown root:{self.account_name} {path} && chmod 640 {path}"
        if owner.mode & stat.S_IRWXO:
            raise FileProblem(path, f"is open to everybody (mode {owner.mode:04o})", f"{right}; change its passwords.")
        ours = {0, os.geteuid()} | ({self.account.uid} if self.account is not None else set())
        if owner.uid not in ours:
            raise FileProblem(path, f"belongs to an account that is not the gateway's (uid {owner.uid})", f"{right}.")
        if (
            owner.mode & stat.S_IRWXG
            and self.account is not None
            and owner.gid not in self.account.groups | {0, os.getegid()}
        ):
            raise FileProblem(path, f"is open to a group that is not the gateway's (gid {owner.gid})", f"{right}.")

    def _settings(self, part: Part) -> None:
        path, before, text = self._env_file(self.layout.settings)
        missing = {name: value for name, value in SETTINGS if value_of(text, name) is None}
        self._set_all(part, path, before, before.owner or self._open_owner(), text, missing)
        if (value_of(text, EMBEDDED[0]) or EMBEDDED[1]).lower() not in OFF:
            part.notes.append("HX_EMBEDDED is on: without gateway.env the wrapper would start with an empty database")

    def _embedded_settings(self, part: Part) -> None:
        path, before, text = self._env_file(self.layout.settings)
        gone = []
        if (value_of(text, EMBEDDED[0]) or "").lower() in OFF:
            gone.append(EMBEDDED[0])
        if value_of(text, DEFAULT_RPM[0]) == DEFAULT_RPM[1]:
            gone.append(DEFAULT_RPM[0])
        self._remove_all(part, path, before, text, gone)

    def _without_stores(self, part: Part) -> None:
        path, before, text = self._env_file(self.layout.secrets)
        self._check_private(path, before)
        gone = [name for name in STORE_VARIABLES if value_of(text, name) is not None]
        self._remove_all(part, path, before, text, gone)

    def _config(self, part: Part, edit: Callable[[str], Edited]) -> None:
        path = self.layout.at(self.layout.config)
        before = self._file(path)
        if before.kind == "absent":
            remedy = "Put LiteLLM's config.yaml there, or name another folder with --base."
            raise FileProblem(path, "there is no such file", remedy)
        self._check_readable(path)
        try:
            edited = edit(text_of(path, before))
        except YamlProblem as problem:
            raise FileProblem(path, str(problem), "Correct that line, then run this again.") from None
        part.notes += edited.notes
        if edited.text != text_of(path, before):
            part.changes.append(Change(path, before, State("file", edited.text.encode(), before.owner)))
            part.detail = f"changed: {', '.join(edited.changed)}"

    def _check_readable(self, path: Path) -> None:
        obstacle = self.account.obstacle(path, self.layout.root) if self.account is not None else None
        if obstacle is not None:
            mode = "755" if obstacle.is_dir() else "644"
            message = f"keeps the account {self.account_name!r} from reading the configuration"
            raise FileProblem(obstacle, message, f"chmod {mode} {obstacle}")

    def _link(self, part: Part) -> None:
        path, config = self.layout.at(self.layout.link), self.layout.at(self.layout.config)
        target = os.path.relpath(config, path.parent)
        before = look(path)
        if path.exists() and config.exists() and path.samefile(config):
            return
        if before.kind == "folder" or (before.kind == "file" and before.data != look(config).data):
            message = "is not the link to config.yaml, and says something else"
            raise FileProblem(path, message, "See which of the two holds, and move this one away.")
        part.changes += [*self._missing_folders(path), Change(path, before, State("link", target=target))]
        part.detail = f"to {self.layout.config}"

    def _drop_in(self, unit: str, name: str, text: str) -> Part:
        def fill(part: Part) -> None:
            path = self.layout.at(self.layout.drop_in(unit, name))
            before = self._file(path)
            if before.data != text.encode():
                after = State("file", text.encode(), before.owner or self._open_owner())
                part.changes += [*self._missing_folders(path), Change(path, before, after)]
                part.detail = f"written to {self.layout.name_of(path)}"

        return self._part(f"{unit} {name}", fill)

    def _without_drop_in(self, unit: str, name: str) -> Callable[[Part], None]:
        def fill(part: Part) -> None:
            path = self.layout.at(self.layout.drop_in(unit, name))
            before = self._file(path)
            if before.kind == "file":
                part.changes.append(Change(path, before, ABSENT))
                part.detail = f"{self.layout.name_of(path)} removed"
            left = {below.name for below in path.parent.iterdir()} if path.parent.is_dir() else {"not there"}
            if name == DATABASE_DROP_IN and left <= {CACHE_DROP_IN, DATABASE_DROP_IN}:
                part.changes.append(Change(path.parent, FOLDER, ABSENT))

        return fill

    # What they share

    def _file(self, path: Path) -> State:
        before = look(path)
        if before.kind == "link":
            remedy = "Put the file itself there, or name the folder that it is in with --base."
            raise FileProblem(path, "is a link", remedy)
        if before.kind == "folder":
            raise FileProblem(path, "is a folder", "Put a plain file in its place.")
        return before

    def _env_file(self, where: PurePosixPath) -> tuple[Path, State, str]:
        path = self.layout.at(where)
        before = self._file(path)
        text = text_of(path, before)
        try:
            value_of(text, "")
        except EnvFileProblem as problem:
            raise FileProblem(path, str(problem), "Correct that line, then run this again.") from None
        return path, before, text

    def _set_all(self, part: Part, path: Path, before: State, owner: Owner, text: str, values: dict[str, str]) -> None:
        new, changed = text, []
        for name, value in values.items():
            with_it = _edited(path, partial(set_variable, name=name, value=value), new)
            if with_it != new:
                changed.append(name)
            new = with_it
        if changed:
            part.changes += [*self._missing_folders(path), Change(path, before, State("file", new.encode(), owner))]
            part.detail = f"set: {', '.join(changed)}"

    def _remove_all(self, part: Part, path: Path, before: State, text: str, names: list[str]) -> None:
        for name in names:
            text = _edited(path, partial(remove_variable, name=name), text)
        if names:
            part.changes.append(Change(path, before, State("file", text.encode(), before.owner)))
            part.detail = f"removed: {', '.join(names)}"

    def _missing_folders(self, path: Path) -> Iterator[Change]:
        above = [folder for folder in reversed(path.parents) if folder.is_relative_to(self.layout.root)]
        return (Change(folder, ABSENT, FOLDER) for folder in above if not folder.exists())

    def _open_owner(self) -> Owner:
        return Owner(OPEN_MODE, os.geteuid(), os.getegid())


def _edited(path: Path, edit: Callable[[str], str], text: str) -> str:
    try:
        return edit(text)
    except EnvFileProblem as problem:
        raise FileProblem(path, str(problem), "Correct that line, then run this again.") from None
