"""A setting comes from the flag, else the environment, else osbuilder.yaml, else its default, and knows from where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from osbuilder.errors import DecodeError, UsageError
from osbuilder.settings import EngineChoice, Settings, fields, load_settings, parse_flags


def settings(
    tmp_path: Path, flags: dict[str, object] | None = None, environment: dict[str, str] | None = None, text: str = ""
) -> Settings:
    if text:
        (tmp_path / "osbuilder.yaml").write_text(text)
    return load_settings(flags or {}, environment=environment or {}, folder=tmp_path)


def test_nothing_given_means_the_defaults(tmp_path: Path) -> None:
    result = settings(tmp_path, environment={"HOME": "/home/ann"})
    assert result.engine is EngineChoice.AUTO
    assert result.store_path == Path("/home/ann/.cache/osbuilder")
    assert set(result.origins.values()) == {"default"}


def test_the_order_is_flag_environment_file(tmp_path: Path) -> None:
    text = "engine: podman\njobs: 3\nattempts: 7\n"
    result = settings(tmp_path, {"engine": "docker"}, {"OSBUILDER_ENGINE": "sandbox", "OSBUILDER_JOBS": "5"}, text)
    assert (result.engine, result.jobs, result.attempts) == (EngineChoice.DOCKER, 5, 7)
    assert [result.origins[name] for name in ("engine", "jobs", "attempts", "qemu")] == [
        "flag",
        "OSBUILDER_JOBS",
        "osbuilder.yaml",
        "default",
    ]


def test_names_that_other_tools_share_are_weaker_than_the_file(tmp_path: Path) -> None:
    environment = {"SOURCE_DATE_EPOCH": "5", "DOCKER_HOST": "tcp://127.0.0.1:1"}
    result = settings(tmp_path, environment=environment, text="source_date_epoch: 7\n")
    assert result.source_date_epoch == 7
    assert result.engine_url == "tcp://127.0.0.1:1"
    assert result.origins["engine_url"] == "DOCKER_HOST"


def test_mirrors_are_named_by_distribution(tmp_path: Path) -> None:
    result = settings(tmp_path, environment={"OSBUILDER_MIRRORS": "debian=http://a/,http://b/ alpine=http://c/"})
    assert result.mirrors == {"debian": ("http://a/", "http://b/"), "alpine": ("http://c/",)}
    with pytest.raises(UsageError, match=r"setting mirrors \(OSBUILDER_MIRRORS\): expected NAME=VALUE"):
        settings(tmp_path, environment={"OSBUILDER_MIRRORS": "http://a/"})


def test_settings_of_distributions_come_together_and_others_come_once(tmp_path: Path) -> None:
    texts = ("mirrors=debian=https://a/d", "jobs=2", "mirrors=fedora=https://b/f,https://c/f")
    mirrors = settings(tmp_path, dict(parse_flags(texts))).mirrors
    assert dict(mirrors) == {"debian": ("https://a/d",), "fedora": ("https://b/f", "https://c/f")}
    with pytest.raises(UsageError, match="--setting jobs: expected it once, got it twice"):
        parse_flags(("jobs=1", "jobs=1"))
    with pytest.raises(UsageError, match=r"setting mirrors \(flag\): expected debian once, got it twice"):
        settings(tmp_path, dict(parse_flags((*texts, "mirrors=debian=https://d/d"))))


@pytest.mark.parametrize("address", ["https://[x", "https://h:abc", "https://h:99999"])
def test_a_mirror_that_is_no_url_is_refused_with_where_it_came_from(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match=r"setting mirrors \(osbuilder.yaml\): expected URLs for debian"):
        settings(tmp_path, text=f"mirrors: {{debian: ['https://a/d', '{address}']}}\n")


def test_an_unknown_name_in_the_environment_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting in the environment: OSBUILDER_ENGIN") as caught:
        settings(tmp_path, environment={"OSBUILDER_ENGIN": "docker"})
    assert "Did you mean OSBUILDER_ENGINE?" in caught.value.hint


def test_an_unknown_flag_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting engin") as caught:
        settings(tmp_path, {"engin": "docker"})
    assert "Did you mean engine?" in caught.value.hint


def test_an_unknown_key_in_the_file_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"osbuilder\.yaml:2: unknown key 'engin'"):
        settings(tmp_path, text="jobs: 2\nengin: docker\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"engine": "doker"}, "setting engine (flag): unknown value 'doker'"),
        ({"jobs": "many"}, "setting jobs (flag): expected a whole number, got 'many'"),
        ({"jobs": "0"}, "setting jobs (flag): expected 1 or more, got 0"),
        (
            {"source_date_epoch": "-5"},
            "setting source_date_epoch (flag): expected seconds since 1970, from 0 to 4294967295, got -5",
        ),
        ({"source_date_epoch": "99999999999999"}, "from 0 to 4294967295, got 99999999999999"),
        ({"source_date_epoch": "4294967296"}, "from 0 to 4294967295, got 4294967296"),
    ],
)
def test_a_value_that_does_not_fit_says_where_it_came_from(
    tmp_path: Path, flags: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settings(tmp_path, flags)
    assert message in caught.value.message


def test_an_epoch_is_a_time_that_every_format_holds(tmp_path: Path) -> None:
    for epoch in (0, 2**32 - 1):
        assert settings(tmp_path, environment={"SOURCE_DATE_EPOCH": str(epoch)}).source_date_epoch == epoch
    with pytest.raises(UsageError, match=r"setting source_date_epoch \(SOURCE_DATE_EPOCH\): expected seconds"):
        settings(tmp_path, environment={"SOURCE_DATE_EPOCH": "-1"})


def test_every_setting_has_a_line_of_help() -> None:
    assert all(field.metadata["doc"] for field in fields())


def test_offline_is_true_or_false_and_nothing_in_between(tmp_path: Path) -> None:
    assert settings(tmp_path).offline is False
    assert settings(tmp_path, environment={"OSBUILDER_OFFLINE": "true"}).offline is True
    assert settings(tmp_path, {"offline": "false"}, {"OSBUILDER_OFFLINE": "true"}).offline is False
    with pytest.raises(UsageError, match=r"setting offline \(flag\): expected true or false, got 'yes'"):
        settings(tmp_path, {"offline": "yes"})
    assert settings(tmp_path, text="offline: true\n").offline is True


@pytest.mark.parametrize(
    "field", [field for field in fields() if "Path" in str(field.type)], ids=lambda field: field.name
)
def test_a_path_may_begin_with_the_home_folder_wherever_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: dataclasses.Field[object]
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    said = [
        settings(tmp_path, {field.name: "~/a"}),
        load_settings({}, fallbacks={field.name: "~/a"}, environment={}, folder=tmp_path),
        *(settings(tmp_path, environment={name: "~/a"}) for name in field.metadata["environment"]),
        settings(tmp_path, environment={f"OSBUILDER_{field.name.upper()}": "~/a"}),
        settings(tmp_path, text=f"{field.name}: ~/a\n"),
    ]
    assert {getattr(each, field.name) for each in said} == {Path("/home/ann/a")}


def test_a_home_folder_that_there_is_not_is_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"setting store \(flag\): there is no home folder ~nobody-of-that-name"):
        settings(tmp_path, {"store": "~nobody-of-that-name/store"})


def test_only_a_path_that_begins_with_it_is_in_the_home_folder(tmp_path: Path) -> None:
    assert settings(tmp_path, {"build": "./~a"}).build == Path("./~a")
