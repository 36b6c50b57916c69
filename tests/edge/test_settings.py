"""Settings: four sources in order, and one helpful sentence for each mistake."""

import os
from pathlib import Path

import pytest

from edge.errors import SettingsError
from edge.settings import load_settings

FOLDERS = {"inbox": "/data/in", "out": "/data/out"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CYTOLOGIA_EDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "station.toml"


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml.write_text('inbox = "/f"\nout = "/f-out"\nbackend = "file"\nprecision = "file"\n')
    monkeypatch.setenv("CYTOLOGIA_EDGE_BACKEND", "environment")
    monkeypatch.setenv("CYTOLOGIA_EDGE_INBOX", "/e")
    settings = load_settings(toml, inbox=Path("/flag"), out=None)
    assert settings.inbox == Path("/flag")
    assert settings.out == Path("/f-out")
    assert settings.backend == "environment"
    assert settings.precision == "file"
    assert settings.quiet_period_s is None


def test_metrics_are_off_unless_a_port_is_set_and_then_for_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(**FOLDERS).metrics_port is None
    monkeypatch.setenv("CYTOLOGIA_EDGE_METRICS_PORT", "9464")
    settings = load_settings(**FOLDERS)
    assert (settings.metrics_address, settings.metrics_port) == ("127.0.0.1", 9464)


def test_a_file_may_begin_with_a_byte_order_mark(toml: Path) -> None:
    toml.write_text('backend = "file"\n', "utf-8-sig")
    assert load_settings(toml, **FOLDERS).backend == "file"


def test_limits_of_two_sources_are_merged_key_by_key(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text("[limits]\nmax_bytes = 5000\nmax_pixels = 5000\n")
    monkeypatch.setenv("CYTOLOGIA_EDGE_LIMITS__MAX_PIXELS", "6000")
    limits = load_settings(toml, **FOLDERS).limits.as_image_limits()
    assert (limits.max_bytes, limits.max_pixels, limits.max_side_px) == (5000, 6000, 20_000)


def test_the_state_lies_in_the_state_directory_of_systemd_or_beside_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(**FOLDERS).state_folder == Path("/data/out/.edge")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edge:/var/lib/other")
    assert load_settings(**FOLDERS).state_folder == Path("/var/lib/edge")
    assert load_settings(**FOLDERS, state="/mine").state_folder == Path("/mine")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("quiet_perod_s = 1", ["'quiet_perod_s'", "'quiet_period_s'", "station.toml"]),
        ("[limits]\nmax_byte = 1", ["'limits.max_byte'", "'limits.max_bytes'", "station.toml"]),
        ("quiet_period_s = -1", ["'quiet_period_s'", "-1", "station.toml", "0.05"]),
        ('watch = "sometimes"', ["'watch'", "'sometimes'", "'polling'"]),
        ("detection_threshold = 1.5", ["'detection_threshold'", "1.5"]),
        ('overlays = "perhaps"', ["'overlays'", "'perhaps'"]),
        ("metrics_port = 0", ["'metrics_port'", "0", "1"]),
        ("metrics_port = 70000", ["'metrics_port'", "70000", "65535"]),
        ('metrics_address = "localhost"', ["'metrics_address'", "'localhost'", "IPv4 or IPv6 address"]),
        ('log_format = "xml"', ["'log_format'", "'xml'", "'json'"]),
        ("inbox = ", ["station.toml", "not TOML"]),
        ('state = ""', ["'state'", "station.toml", "empty", "'.' for the current one"]),
        (
            'state = "~/state"',
            ["'state'", "station.toml", "only a shell knows what ~ is; write the whole"],
        ),
        ('bundle = "\\u0000"', ["'bundle'", "station.toml", "no folder can have this name"]),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_with_the_key_and_the_file(
    toml: Path, text: str, named: list[str]
) -> None:
    toml.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_settings(toml, **FOLDERS)
    assert "\n" not in str(raised.value)
    for part in named:
        assert part in str(raised.value)


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOGIA_EDGE_RESCAN_PERIOD", "10")
    with pytest.raises(
        SettingsError, match=r"'CYTOLOGIA_EDGE_RESCAN_PERIOD'.*'CYTOLOGIA_EDGE_RESCAN_PERIOD_S'"
    ):
        load_settings(**FOLDERS)


def test_a_wrong_variable_is_named_as_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOGIA_EDGE_QUIET_PERIOD_S", "soon")
    with pytest.raises(SettingsError, match="'quiet_period_s' in the environment is 'soon'"):
        load_settings(**FOLDERS)
    monkeypatch.delenv("CYTOLOGIA_EDGE_QUIET_PERIOD_S")
    monkeypatch.setenv("CYTOLOGIA_EDGE_LIMITS", "not json")
    with pytest.raises(SettingsError, match="environment"):
        load_settings(**FOLDERS)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOGIA_EDGE_STATE", "")
    assert load_settings(**FOLDERS).state_folder == Path("/data/out/.edge")
    monkeypatch.setenv("CYTOLOGIA_EDGE_OUT", "")
    with pytest.raises(SettingsError, match="'out' is missing"):
        load_settings(inbox="/data/in")


@pytest.mark.parametrize("name", ["inbox", "out", "state"])
def test_links_that_lead_in_a_circle_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    said = rf"{name} is '{tmp_path}/a', which leads nowhere \(.*mend the link"
    with pytest.raises(SettingsError, match=said):
        load_settings(**{**FOLDERS, name: tmp_path / "a"})


def test_a_missing_inbox_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"'inbox' is missing; .*CYTOLOGIA_EDGE_INBOX"):
        load_settings(out="/data/out")


def test_annotated_copies_that_would_be_read_again_are_refused() -> None:
    folders = {"inbox": "/data/out/annotated", "out": "/data/out"}
    load_settings(**folders)
    with pytest.raises(
        SettingsError, match="annotated in out is '/data/out/annotated' and lies in the inbox"
    ):
        load_settings(**folders, overlays=True)


@pytest.mark.parametrize("folders", [{"out": "/data/in/out"}, {"out": "/data/in"}, {"state": "/data/in/x"}])
def test_outputs_inside_the_inbox_are_refused(folders: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="lies in the inbox '/data/in'"):
        load_settings(**{**FOLDERS, **folders})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load_settings(tmp_path / "absent.toml", **FOLDERS)
