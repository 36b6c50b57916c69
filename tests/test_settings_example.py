"""The example settings file cannot drift from the settings."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from edge import cli
from edge.backends.base import BACKEND_NAMES
from edge.selftest import TOLERANCES
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


def test_the_example_and_the_help_name_every_backend_and_precision() -> None:
    text = EXAMPLE.read_text()
    assert [name for name in (*BACKEND_NAMES, *TOLERANCES) if f'"{name}"' not in text] == []
    told = {one.opts[0]: one.help for one in cli.run.params if isinstance(one, click.Option)}
    for option, names in (("--backend", BACKEND_NAMES), ("--precision", TOLERANCES)):
        assert set(names) <= set(re.findall(r"\w+", str(told[option])))
