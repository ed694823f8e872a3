"""Settings: where they come from, what they refuse, and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scripts.docs_reference import is_secret as is_declared_secret

from hx_gateway.setting_sources import default_data_dir, is_secret
from hx_gateway.settings import Settings, SettingsError, load_settings, variables_of

KEY = "a-long-admin-key-for-tests-0123456789"


def sentence(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return str(caught.value)


def test_a_fresh_install_listens_on_loopback_at_4010() -> None:
    settings = load_settings({}).settings
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 4010, "INFO")
    assert settings.embedded
    assert settings.serve_demo_models
    assert settings.cors_origins == ()


def test_every_field_has_a_description_and_one_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert variables_of(name)[0].isupper()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WRAPPER_PORT": "70000"}, "WRAPPER_PORT is '70000'"),
        ({"WRAPPER_PORT": "http"}, "WRAPPER_PORT is 'http'"),
        ({"WRAPPER_LOG_LEVEL": "loud"}, "WRAPPER_LOG_LEVEL is 'loud'"),
        ({"HEALTH_CHECK_INTERVAL": "0"}, "HEALTH_CHECK_INTERVAL is '0'"),
        ({"ENABLE_DB_GUARD": "perhaps"}, "ENABLE_DB_GUARD is 'perhaps'"),
        ({"HX_TRUSTED_PROXIES": "10.0.0.0/8,nowhere"}, "HX_TRUSTED_PROXIES"),
        ({"HX_CORS_ORIGINS": "*"}, "'*' is not an origin"),
        ({"HX_PUBLIC_URL": "gateway.example.com"}, "HX_PUBLIC_URL is 'gateway.example.com': must be http://"),
        ({"HX_PUBLIC_URL": "https://gateway.example.com/?a=1"}, "without a query"),
        ({"HX_PUBLIC_URL": "https://me:made-up@gateway.example.com"}, "HX_PUBLIC_URL must be http://"),
        ({"HX_REGISTRY_PUBLIC_TENANT": "*"}, "HX_REGISTRY_PUBLIC_TENANT is '*'"),
        ({"HX_DB_GUARD_PREFIXES": "v1/keys"}, "must start with '/'"),
        ({"LITELLM_BASE_URL": "127.0.0.1:4000"}, "must start with http:// or https://"),
        (
            {"HX_TLS_CERT": "/nowhere/cert.pem", "HX_TLS_KEY": "/nowhere/key.pem"},
            "HX_TLS_CERT: there is no file",
        ),
        ({"HX_TLS_CERT": "/etc/hostname"}, "must be given together"),
        ({"HX_MODEL_CONFIG": "/nowhere/config.yaml"}, "HX_MODEL_CONFIG: there is no file"),
        ({"PG_MIN_CONNECTIONS": "6"}, "PG_MIN_CONNECTIONS is above PG_MAX_CONNECTIONS"),
        ({"HX_ENV_FILE": "/nowhere/gateway.env"}, "HX_ENV_FILE: there is no file"),
    ],
)
def test_a_bad_value_is_told_in_a_sentence_that_names_its_variable(environ: dict[str, str], words: str) -> None:
    assert words in sentence(environ)


@pytest.mark.parametrize("key", ["sk-1234", "sk-hx-dev-1234", "changeme", "", "x" * 31, "y" * 40, "with a space " * 4])
def test_a_weak_admin_key_stops_the_start_and_is_not_repeated(key: str) -> None:
    told = sentence({"HX_ADMIN_KEY": key})
    assert told.startswith("HX_ADMIN_KEY")
    assert not key or key not in told


def test_all_problems_are_told_at_once() -> None:
    assert len(sentence({"WRAPPER_PORT": "x", "HX_WORKERS": "0"}).splitlines()) == 2


def test_without_embedded_stores_every_missing_url_is_named() -> None:
    told = sentence({"HX_EMBEDDED": "off", "REDIS_URL": "redis://127.0.0.1"})
    assert "PG_URL, QDRANT_URL" in told
    assert "REDIS_URL" not in told


def test_a_store_can_be_left_out_on_purpose() -> None:
    environ = {"HX_EMBEDDED": "off", "PG_URL": "none", "REDIS_URL": "none", "QDRANT_URL": "none"}
    assert load_settings(environ).settings.qdrant_url == "none"


def test_the_first_of_several_database_urls_wins_and_the_others_are_named() -> None:
    loaded = load_settings({"DATABASE_URI": "postgresql://b/b", "PG_URL": "postgresql://a/a"})
    assert loaded.settings.pg_url is not None
    assert loaded.settings.pg_url.get_secret_value() == "postgresql://a/a"
    assert any("DATABASE_URI" in warning for warning in loaded.warnings)


def test_parts_of_a_database_address_make_an_encoded_url() -> None:
    loaded = load_settings({"POSTGRES_SERVER": "db.example", "POSTGRES_DB": "hx", "POSTGRES_PASSWORD": "p/w@d"})
    assert loaded.settings.pg_url is not None
    assert loaded.settings.pg_url.get_secret_value() == "postgresql://postgres:p%2Fw%40d@db.example:5432/hx"


def test_the_environment_wins_over_a_file_and_the_source_is_known(tmp_path: Path) -> None:
    file = tmp_path / "gateway-wrapper.env"
    file.write_text("WRAPPER_PORT=5000\nWRAPPER_LOG_LEVEL=DEBUG\n")
    loaded = load_settings({"WRAPPER_PORT": "6000"}, env_files=(file,))
    assert (loaded.settings.port, loaded.settings.log_level) == (6000, "DEBUG")
    assert loaded.sources["port"] == "environment (WRAPPER_PORT)"
    assert loaded.sources["log_level"] == f"{file} (WRAPPER_LOG_LEVEL)"
    assert loaded.sources["host"] == "default"


URL = "postgresql://hx:made-up@db.example.org/hx"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o642, 0o666])
@pytest.mark.parametrize("line", [f"PG_URL={URL}", f"export HX_ADMIN_KEY='{KEY}'", f"MODELS_URL={URL}"])
def test_a_file_with_a_secret_that_everybody_may_read_is_refused(tmp_path: Path, mode: int, line: str) -> None:
    file = tmp_path / "gateway.env"
    file.write_text(f"WRAPPER_PORT=5000\n{line}\n")
    file.chmod(mode)
    told = sentence({"HX_ENV_FILE": str(file)})
    assert f"{str(file)!r} holds {line.removeprefix('export ').partition('=')[0]}," in told
    assert f"(mode {mode:04o}): chmod 640 it" in told
    assert "made-up" not in told
    assert KEY not in told


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o440])
def test_a_file_with_a_secret_that_only_its_group_may_read_is_taken(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "gateway.env"
    file.write_text(f"PG_URL={URL}\n")
    file.chmod(mode)
    assert load_settings({"HX_ENV_FILE": str(file)}).sources["pg_url"] == f"{file} (PG_URL)"


def test_a_file_without_a_secret_may_be_read_by_everybody(tmp_path: Path) -> None:
    file = tmp_path / "gateway-wrapper.env"
    file.write_text(
        "WRAPPER_PORT=5000\nPG_URL=none\nLOGFIRE_TOKEN=\nHX_TLS_KEY=\nQDRANT_URL=http://v.example.org:6333\n"
    )
    file.chmod(0o644)
    assert load_settings({"HX_ENV_FILE": str(file)}).settings.port == 5000


def test_every_secret_setting_is_known_as_one_by_its_name() -> None:
    for name, field in Settings.model_fields.items():
        for variable in variables_of(name):
            assert is_secret(variable, "value") == is_declared_secret(field), variable


def test_a_file_named_after_a_dash_may_be_missing_and_is_held_to_the_same_rules(tmp_path: Path) -> None:
    file = tmp_path / "gateway.env"
    assert load_settings({"HX_ENV_FILE": f"-{file}"}).sources["pg_url"] == "default"
    file.write_text(f"PG_URL={URL}\n")
    file.chmod(0o600)
    assert load_settings({"HX_ENV_FILE": f"-{file}"}).sources["pg_url"] == f"{file} (PG_URL)"
    file.chmod(0o644)
    assert "holds PG_URL" in sentence({"HX_ENV_FILE": f"-{file}"})


def test_a_file_named_after_a_dash_may_be_closed_to_us(tmp_path: Path) -> None:
    file = tmp_path / "gateway.env"
    file.write_text(f"PG_URL={URL}\n")
    file.chmod(0)
    ours = os.geteuid()
    if ours == 0:
        os.seteuid(65534)
    try:
        assert load_settings({"HX_ENV_FILE": f"-{file}"}).sources["pg_url"] == "default"
        assert "HX_ENV_FILE: cannot read" in sentence({"HX_ENV_FILE": str(file)})
    finally:
        os.seteuid(ours)


def test_credentials_are_read_behind_the_environment_and_before_files(tmp_path: Path) -> None:
    folder, file = tmp_path / "credentials", tmp_path / "gateway.env"
    folder.mkdir()
    for name, value in (("PG_URL", URL), ("HX_ADMIN_KEY", KEY), ("REDIS_URL", "redis://h"), ("unknown", "\xff")):
        (folder / name).write_bytes(f"{value}\n".encode("latin-1"))
        (folder / name).chmod(0o400)
    file.write_text("PG_URL=none\nQDRANT_URL=none\n")
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "HX_ENV_FILE": str(file), "REDIS_URL": "none"}
    loaded = load_settings(environ)
    assert loaded.settings.pg_url is not None
    assert loaded.settings.pg_url.get_secret_value() == URL
    assert loaded.settings.qdrant_url == "none"
    assert {name: loaded.sources[name] for name in ("pg_url", "redis_url", "admin_key")} == {
        "pg_url": f"{folder} (PG_URL)",
        "redis_url": "environment (REDIS_URL)",
        "admin_key": f"{folder} (HX_ADMIN_KEY)",
    }


def test_a_credential_that_everybody_may_read_or_that_is_misspelt_is_told(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    (tmp_path / "HX_ADMNI_KEY").write_text(KEY)
    (tmp_path / "HX_ADMNI_KEY").chmod(0o400)
    assert "did you mean HX_ADMIN_KEY?" in load_settings(environ).warnings[0]
    (tmp_path / "PG_URL").write_text(URL)
    (tmp_path / "PG_URL").chmod(0o444)
    assert "holds PG_URL, and everybody" in sentence(environ)


def test_a_folder_of_credentials_that_is_not_there_is_told() -> None:
    assert "CREDENTIALS_DIRECTORY: cannot read '/nowhere'" in sentence({"CREDENTIALS_DIRECTORY": "/nowhere"})


def test_a_misspelt_setting_is_named_with_the_one_meant() -> None:
    assert load_settings({"HX_ADMNI_KEY": KEY}).warnings == (
        "HX_ADMNI_KEY is not a setting; did you mean HX_ADMIN_KEY?",
    )


def test_settings_are_frozen_and_hide_their_secrets() -> None:
    settings = load_settings({"HX_ADMIN_KEY": KEY, "REDIS_URL": "redis://:hidden@h"}).settings
    assert KEY not in repr(settings)
    assert "hidden" not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/other"}, "/var/lib/other"),
        ({"INVOCATION_ID": "1"}, "/var/lib/hx-gateway"),
        ({"XDG_STATE_HOME": "/home/someone/state"}, "/home/someone/state/hx-gateway"),
    ],
)
def test_the_data_directory_follows_systemd_and_xdg(environ: dict[str, str], expected: str) -> None:
    assert default_data_dir(environ) == Path(expected)
