"""Settings: where values come from, and what is refused."""

import os
from pathlib import Path

import pytest

from sandbox.config import Settings, allowed, unknown_variables
from sandbox.errors import InvalidLimits, InvalidSetting
from sandbox.execution import Limits
from sandbox.tables import ModelTable, PricesTable, UpstreamTable


@pytest.fixture(autouse=True)
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty settings file in force, and an environment without settings of the machine's own."""
    for name in list(os.environ):
        if name.startswith("SANDBOX_"):
            monkeypatch.delenv(name)
    file = tmp_path / "config.toml"
    file.touch()
    monkeypatch.setenv("SANDBOX_CONFIG", str(file))
    return file


def origin(settings: Settings, name: str) -> str:
    return next(setting.origin for setting in settings.explain() if setting.name == name)


def test_an_argument_beats_the_environment_which_beats_the_file_which_beats_the_default(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (Settings().pool_size, origin(Settings(), "pool_size")) == (4, "default")
    settings_file.write_text("pool_size = 5")
    assert (Settings().pool_size, origin(Settings(), "pool_size")) == (5, str(settings_file))
    monkeypatch.setenv("SANDBOX_POOL_SIZE", "6")
    assert (Settings().pool_size, origin(Settings(), "pool_size")) == (6, "SANDBOX_POOL_SIZE")
    settings = Settings(pool_size=7)
    assert (settings.pool_size, origin(settings, "pool_size")) == (7, "argument")


def test_every_setting_is_explained_once_in_a_sentence() -> None:
    explained = Settings().explain()
    assert [setting.name for setting in explained] == list(Settings.model_fields)
    assert all(setting.description.endswith(".") for setting in explained)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_DISK_MB", "")
    assert Settings().disk_mb is None


def test_the_users_file_is_read_when_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sandbox" / "config.toml"
    file.parent.mkdir()
    file.write_text('runtime = "embedded"')
    monkeypatch.delenv("SANDBOX_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert origin(Settings(), "runtime") == str(file)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().pool_size = 9


def test_the_data_directory_is_absolute_and_knows_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    assert Settings(data_dir="data").data_dir == tmp_path / "data"
    assert Settings(data_dir="~/data").data_dir == Path("/somewhere/data")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SANDBOX_POOL_SIZE", "many", "pool_size is 'many' .from SANDBOX_POOL_SIZE.; it must be a whole number from 0"),
        ("SANDBOX_POOL_SIZE", "-1", "from 0 to 1000"),
        ("SANDBOX_CPUS", "nan", "a number from 0.05 to 1024"),
        ("SANDBOX_TIMEOUT_S", "0", "a number above 0, at most 86400"),
        ("SANDBOX_TIMEOUT_S", "inf", "a number above 0, at most 86400"),
        ("SANDBOX_RUNTIME", "magic", "`auto`, `embedded` or `docker`"),
        ("SANDBOX_IMAGE", "../x", "a name of lower-case letters"),
        ("SANDBOX_DISK_MB", "500", "at most 416, which is memory_mb less 96"),
        ("SANDBOX_MAX_MEMORY_MB", "200", "at least memory_mb, which is 512"),
        ("SANDBOX_TIMEOUT_S", "7200", "max_timeout_s is 3600.0 .from default.; it must be at least timeout_s"),
    ],
)
def test_a_bad_value_is_refused_with_its_origin_and_what_would_do(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting, match=words):
        Settings()


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InvalidSetting, match=r"(?s)pool_size.*argument.*\n.*files") as caught:
        Settings(pool_size="x", files=1)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pool_sizes = 3", "config.toml: there is no setting 'pool_sizes'; did you mean pool_size?"),
        ("[limits]\nmemory = 3", "no setting 'limits'; choose from: allowed_hosts"),
        ("pool_size =", "is not valid TOML"),
        ("pool_size = [1]", r"pool_size is \[1\] .from .*config.toml.; it must be a whole number"),
        ("pool_size = true", r"pool_size is True .from .*config.toml.; it must be a whole number"),
    ],
)
def test_a_bad_file_is_refused_with_its_path(settings_file: Path, text: str, words: str) -> None:
    settings_file.write_text(text)
    with pytest.raises(InvalidSetting, match=words):
        Settings()


def test_a_file_that_is_not_text_is_refused(settings_file: Path) -> None:
    settings_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSetting, match="is not valid TOML"):
        Settings()


def test_a_named_file_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_CONFIG", "/nowhere/config.toml")
    with pytest.raises(InvalidSetting, match=r"/nowhere/config\.toml cannot be read: No such file"):
        Settings()


@pytest.mark.parametrize("variable", ["SANDBOX_MEMORY", "SANDBOX_POOLSIZE", "SANDBOX_TIMEOUT"])
def test_a_misspelt_variable_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "300")
    with pytest.raises(InvalidSetting, match=f"the environment has {variable}.*did you mean"):
        Settings()


def test_a_foreign_variable_with_our_prefix_is_pointed_out_but_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_ORCHESTRA_ID", "7")
    Settings()
    assert unknown_variables() == ["SANDBOX_ORCHESTRA_ID"]


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="no setting 'pool'; did you mean pool_size"):
        Settings(pool=3)


@pytest.mark.parametrize("name", ["memory_mb", "cpus", "processes", "files", "output_bytes"])
def test_a_setting_allows_what_limits_allow_and_no_more(name: str) -> None:
    bounds = {type(bound).__name__: bound for bound in Settings.model_fields[name].metadata}
    for bound, beyond in ((bounds["Ge"].ge, bounds["Ge"].ge * 0.99), (bounds["Le"].le, bounds["Le"].le * 1.01)):
        Limits(**{name: bound})
        with pytest.raises(InvalidLimits, match=name):
            Limits(**{name: beyond})


def test_upstreams_and_models_are_tables_in_the_file(settings_file: Path) -> None:
    settings_file.write_text(
        """
        [upstreams.local]
        url = "http://127.0.0.1:8080/v1"
        prices = { input = 0, output = 0 }
        [models."qwen-2.5"]
        routes = ["local/qwen", "openai/gpt-5"]
        policy = "cheapest"
        """
    )
    settings = Settings()
    assert (settings.upstreams["local"].url, settings.upstreams["local"].attempts) == ("http://127.0.0.1:8080/v1", 3)
    assert settings.models["qwen-2.5"].routes == ("local/qwen", "openai/gpt-5")
    assert origin(settings, "models") == str(settings_file)


def test_upstreams_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_UPSTREAMS", '{"local": {"url": "http://127.0.0.1:8080/v1"}}')
    assert list(Settings().upstreams) == ["local"]
    monkeypatch.setenv("SANDBOX_UPSTREAMS", '{"local": {"key": "sk-hidden"')
    with pytest.raises(InvalidSetting, match=r"upstreams .from SANDBOX_UPSTREAMS. is not valid JSON: ") as caught:
        Settings()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[upstream.a]", "no setting 'upstream'; did you mean upstreams?"),
        ("[upstreams.a]\ntimout_s = 3", r"upstreams\.a .from .*toml.: there is no key 'timout_s'; .* timeout_s\?"),
        ("[upstreams.a]\ntimeout = 3", r"there is no key 'timeout'; did you mean timeout_s\?"),
        ("[upstreams.a]\nxyz = 3", "there is no key 'xyz'; choose from: attempts, breaker_failures,"),
        (
            "[upstreams.a]\nattempts = 0",
            r"upstreams\.a\.attempts is 0 .from .*; it must be a whole number from 1 to 20",
        ),
        ('[upstreams.a]\ndialect = "x"', r"upstreams\.a\.dialect is 'x' .*; it must be `openai` or `anthropic`"),
        ('[upstreams.a]\nurl = "ftp://x"', r"upstreams\.a\.url is 'ftp://x' .*; it must be a URL that begins with"),
        ("[upstreams.a.prices]\ninput = -1\noutput = 1", r"upstreams\.a\.prices\.input is -1 .* a number from 0 to"),
        ("[upstreams.a.prices]\ninptu = 1", r"upstreams\.a\.prices .*: there is no key 'inptu'; did you mean input\?"),
        ("[upstreams.a.prices]\ninput = 1", r"upstreams\.a\.prices\.output is missing .*; it must be a number"),
        ("[upstreams.'A b']", r"upstreams\.A b .* cannot be used; `\[upstreams\.NAME\]` must be tables .*lower-case"),
        ("upstreams = 3", r"upstreams .* cannot be used; `\[upstreams\.NAME\]` must be tables of upstreams by name"),
        ("[models.m]", r"models\.m\.routes is missing .*; it must be a list of `upstream/model`"),
        ("[models.m]\nroutes = []", r"models\.m\.routes cannot be used .*; it must be a list of `upstream/model`"),
        ("[models.m]\nroutes = ['x']", r"models\.m\.routes\.0 is 'x' .*; it must be a list of `upstream/model`"),
        ("[models.m]\nroutes = ['a/x']\npolicy = 'best'", "is 'best' .*; it must be `first`, `pinned`, `cheapest` or"),
        ("[models.m]\nroutes = ['a/x']\nshadow_share = 2", r"models\.m\.shadow_share is 2 .*; .* a number from 0 to 1"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_as_well_as_elsewhere(settings_file: Path, text: str, words: str) -> None:
    settings_file.write_text(text)
    with pytest.raises(InvalidSetting, match=words):
        Settings()


@pytest.mark.parametrize(
    "text",
    [
        "[upstreams.a]\nkey = 'sk-hidden'",
        "[upstreams.a]\nheaders = { authorization = 'Bearer hidden' }",
        "[upstreams.a]\nkey = ['sk-hidden']",
        "[upstreams.a]\nheaders = { x = ['hidden'] }",
        "[upstreams.a]\nheaders = 'hidden'",
        "[upstreams]\nkey = 'sk-hidden'",
        "upstreams = ['sk-hidden']",
        "[upstreams.a]\napi_key = 'sk-hidden'",
        "[upstreams.a]\nurl = 'https://me:hidden@example.com'",
    ],
)
def test_the_keys_of_upstreams_are_never_shown(settings_file: Path, text: str) -> None:
    settings_file.write_text(text)
    try:
        shown = "".join(f"{setting.value} {setting.value!r}" for setting in Settings().explain())
    except InvalidSetting as error:
        shown = str(error)
    assert "hidden" not in shown
    assert "upstreams" in shown or "UpstreamTable" in shown


def test_every_key_of_the_tables_is_explained_in_a_sentence() -> None:
    for table in (UpstreamTable, ModelTable, PricesTable):
        assert all((field.description or "").endswith(".") for field in table.model_fields.values())
        assert all("None" not in allowed(field) for field in table.model_fields.values())


def test_one_run_of_the_loop_is_bounded_unless_it_is_said_otherwise() -> None:
    settings = Settings()
    bounds = (settings.loop_attempts, settings.loop_turns, settings.loop_tokens, settings.loop_usd)
    assert bounds == (4, 16, 500_000, 2.0)
    assert settings.loop_seconds == 900
