"""The example settings file cannot drift from the settings."""

import tomllib
from pathlib import Path

import pytest

from edge.settings import Limits, Settings, load_settings

EXAMPLE = Path(__file__).parents[1] / "systemd" / "station.toml"


def test_the_example_is_accepted_and_says_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    settings = load_settings(EXAMPLE)
    for key, value in tomllib.loads(EXAMPLE.read_text()).items():
        if key not in ("inbox", "out", "limits"):
            assert value == Settings.model_fields[key].default, key
    assert settings.limits == Limits()


def test_the_example_explains_every_key() -> None:
    text = EXAMPLE.read_text()
    for key in (*Settings.model_fields, *Limits.model_fields):
        assert f"\n{key} = " in text or f"\n# {key} = " in text or f"\n[{key}]" in text, key
