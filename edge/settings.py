"""The settings of a station, from four sources; importing this module costs the time of importing pydantic.

From strong to weak: flags of the command, environment variables CYTOLOGIA_EDGE_*, a TOML file, the defaults
below. Keys of `limits` are CYTOLOGIA_EDGE_LIMITS__MAX_BYTES and the like in the environment.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from edge.errors import SettingsError
from edge.images import ImageLimits

ENVIRONMENT_PREFIX = "CYTOLOGIA_EDGE_"

_DEFAULT_LIMITS = ImageLimits()


class Limits(BaseModel):
    """The largest image that is read; see `edge.images.ImageLimits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int = Field(default=_DEFAULT_LIMITS.max_bytes, ge=1024)
    max_side_px: int = Field(default=_DEFAULT_LIMITS.max_side_px, ge=16)
    max_pixels: int = Field(default=_DEFAULT_LIMITS.max_pixels, ge=256)

    def as_image_limits(self) -> ImageLimits:
        """The same as the decoder takes it."""
        return ImageLimits(self.max_bytes, self.max_side_px, self.max_pixels)


def _named(folder: object) -> object:
    if folder == "":
        raise ValueError("it is empty; name a folder, or write '.' for the current one")
    if isinstance(folder, str) and "\0" in folder:
        raise ValueError("no folder can have this name")
    if isinstance(folder, str) and folder.split("/")[0] == "~":
        raise ValueError("only a shell knows what ~ is; write the whole path")
    return folder


Folder = Annotated[Path, BeforeValidator(_named)]


class Settings(BaseSettings):
    """All settings of the daemon; `load_settings` makes them."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    inbox: Folder
    """The watched folder; its sub-folders are samples."""
    out: Folder
    """The folder of results.csv and images.csv."""
    state: Folder | None = None
    """The folder of the journal; None: $STATE_DIRECTORY, else `.edge` in `out`."""
    bundle: Folder | None = None
    """The model bundle; None: the embedded one."""
    backend: str = "auto"
    server_url: str | None = None
    """Of the server, where `backend` is "kserve"; None: http://127.0.0.1:8000."""
    precision: str = "auto"
    fallback: str | None = None
    """The backend to use, with a warning, where the named one cannot be used; None: then it ends."""
    detection_threshold: float | None = Field(default=None, ge=0, le=1)
    """In place of the bundle's."""
    quiet_period_s: float | None = Field(default=None, ge=0.05, le=3600)
    """How long a file must not change before it is read; None: as `edge.inbox.Inbox` chooses."""
    rescan_period_s: float = Field(default=60, ge=1, le=300)
    watch: Literal["auto", "events", "polling"] = "auto"
    duplicates: Literal["skip", "again"] = "skip"
    overlays: bool = False
    limits: Limits = Limits()
    log_format: Literal["auto", "text", "json"] = "auto"
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """TCP port at which Prometheus reads the metrics; None: they are not kept."""
    metrics_address: Annotated[str, AfterValidator(lambda text: str(ip_address(text)))] = "127.0.0.1"

    @property
    def state_folder(self) -> Path:
        """`state`, or what stands in for it."""
        given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return self.state or (Path(given) if given else self.out / ".edge")

    @model_validator(mode="after")
    def _fallback_of_a_named_backend(self) -> "Settings":
        if self.fallback is not None and self.backend == "auto":
            raise ValueError(
                f"fallback is {self.fallback!r}, but backend is 'auto', which tries all of them; name a "
                "backend, or take fallback out"
            )
        return self

    @model_validator(mode="after")
    def _outputs_outside_inbox(self) -> "Settings":
        inbox = _resolved("inbox", self.inbox)
        folders = {"out": self.out, "state": self.state_folder}
        if self.overlays:
            folders["annotated in out"] = self.out / "annotated"
        for name, folder in folders.items():
            if _resolved(name, folder).is_relative_to(inbox):
                raise ValueError(
                    f"{name} is {str(folder)!r} and lies in the inbox {str(self.inbox)!r}, so the station "
                    "would read its own files; set a folder outside it"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` has merged: it knows which source a key came from."""
        return (init_settings,)


def _resolved(name: str, folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} is {str(folder)!r}, which leads nowhere ({error}); mend the link"
        ) from error


def load_settings(toml: Path | None = None, **flags: Any) -> Settings:
    """Settings from all sources.

    Args:
        toml: a settings file.
        flags: what the command line says, by the names of the settings; None: not given there.

    Raises:
        SettingsError: an unknown key, a wrong value or an unreadable file.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    file = _read_toml(toml) if toml else {}
    _refuse_unknown_variables()
    try:
        environment = EnvSettingsSource(Settings)()
        return Settings(**_merged(_merged(file, environment), given))
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(key) for key in first["loc"]]
        sources = {"the command line": given, "the environment": environment, f"{str(toml)!r}": file}
        source = next((name for name, values in sources.items() if _holds(values, keys)), "")
        raise SettingsError(_sentence(first["type"], first["msg"], first["input"], keys, source)) from error
    except ValueError as error:  # a variable that is no JSON where a table is expected
        raise SettingsError(f"the environment has a wrong value: {error}; correct it.") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # editors of Windows begin it with a mark
    except OSError as error:
        raise SettingsError(
            f"the settings file {str(path)!r} cannot be read ({error.strerror}); "
            "correct its path or its rights."
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"the settings file {str(path)!r} is not TOML ({error}); correct that place."
        ) from error


def _merged(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(weak)
    for key, value in strong.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _known_keys() -> list[str]:
    return [key for key in Settings.model_fields if key != "limits"] + [
        f"limits.{key}" for key in Limits.model_fields
    ]


def _refuse_unknown_variables() -> None:
    known = {f"{ENVIRONMENT_PREFIX}{key.replace('.', '__')}".upper() for key in _known_keys()}
    known.add(f"{ENVIRONMENT_PREFIX}LIMITS")
    for name in os.environ:
        if name.upper().startswith(ENVIRONMENT_PREFIX) and name.upper() not in known:
            raise SettingsError(f"the environment has the unknown variable {name!r}; {_nearest(name, known)}")


def _nearest(key: str, known: set[str] | list[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"the known ones are {', '.join(sorted(known))}."


def _holds(values: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return bool(keys)


def _sentence(kind: str, message: str, value: Any, keys: list[str], source: str) -> str:
    key, where = ".".join(keys), f" in {source}" if source else ""
    if kind == "extra_forbidden":
        return f"the setting {key!r}{where} is unknown; {_nearest(key, _known_keys())}"
    if kind == "missing":
        variable = ENVIRONMENT_PREFIX + key.upper()
        return f"the setting {key!r} is missing; give it as a flag, as {variable} or in the settings file."
    message = message.removeprefix("Value error, ")
    if not keys:
        return f"the settings contradict themselves: {message}."
    return f"the setting {key!r}{where} is {value!r}, but: {message[:1].lower()}{message[1:]}; correct it."
