"""`{night}` in a job: which date it is, where it may stand, and that a run records the date."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import record_of

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job import night as night_module
from nightpress.pipelines.job.edit import rewrite_model
from nightpress.pipelines.job.local_time import machine_zone, zone_name, zone_named
from nightpress.pipelines.job.night import ANY_NIGHT, night_of, tonight
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.training.spec import read_train_spec

BERLIN = ZoneInfo("Europe/Berlin")
SMALLEST = {"name": "cats-{night}", "manifest": "in/{night}.csv", "output": "press/{night}"}
NIGHT = date(2027, 1, 15)


def refusal(overrides: tuple[str, ...] = (), **values: Any) -> str:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_dict(SMALLEST | values, overrides, night=NIGHT)
    (line,) = str(caught.value).splitlines()
    return line


def set_clock(patch: pytest.MonkeyPatch, moment: str) -> None:
    """Make it another time for those who ask for the night."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(moment).astimezone(tz)

    patch.setattr(night_module, "datetime", Clock)


def test_a_night_is_filled_in_wherever_it_may_stand() -> None:
    spec = RunSpec.from_dict(SMALLEST, night=NIGHT)
    assert spec.url == "press/2027-01-15/cats-2027-01-15"
    assert spec.manifest == "in/2027-01-15.csv"
    several = RunSpec.from_dict(SMALLEST | {"manifest": ["{night}/*.csv", "b.csv"]}, night=NIGHT)
    assert several.manifest == ["2027-01-15/*.csv", "b.csv"]


@pytest.mark.parametrize(
    ("override", "url", "manifest"),
    [
        ("name={night}", "press/2027-01-15", "p.csv"),
        ("name=x-{night}", "press/x-2027-01-15", "p.csv"),
        ('name="{night}"', "press/2027-01-15", "p.csv"),
        ("output={night}/runs", "2027-01-15/runs/job", "p.csv"),
        ("manifest={night}.csv", "press/job", "2027-01-15.csv"),
        ("manifest=in/{night}/*.csv", "press/job", "in/2027-01-15/*.csv"),
        ('manifest=["{night}.csv"]', "press/job", ["2027-01-15.csv"]),
    ],
)
def test_an_override_may_have_it_without_quotes(
    tmp_path: Path, override: str, url: str, manifest: str | list[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: p.csv\noutput: press\n")
    spec = RunSpec.from_file(path, [override], night=NIGHT)
    assert (spec.url, spec.manifest) == (url, manifest)


@pytest.mark.parametrize(
    ("moment", "night"),
    [
        ("2026-11-28T22:00+01:00", "2026-11-28"),
        ("2026-11-29T02:00+01:00", "2026-11-28"),
        ("2026-11-29T11:59+01:00", "2026-11-28"),
        ("2026-11-29T12:00+01:00", "2026-11-29"),
        ("2026-11-28T23:30Z", "2026-11-28"),
        ("2026-10-25T11:59+01:00", "2026-10-24"),
        ("2026-10-25T12:00+01:00", "2026-10-25"),
        ("2027-03-28T11:59+02:00", "2027-03-27"),
        ("2027-03-28T12:00+02:00", "2027-03-28"),
    ],
)
def test_a_night_is_the_local_date_twelve_hours_ago(
    moment: str, night: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, moment)
    assert tonight(BERLIN) == date.fromisoformat(night)
    assert RunSpec.from_dict(SMALLEST, zone=BERLIN).name == f"cats-{night}"
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert RunSpec.from_dict(SMALLEST).name == f"cats-{night}"


@given(st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)))
def test_all_of_a_night_from_noon_to_noon_has_one_date(moment: datetime) -> None:
    local = moment.astimezone(BERLIN)
    began = local.date() if local.hour >= 12 else local.date() - timedelta(days=1)
    assert night_of(local) == began


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model": {"source": "models/{night}"}}, "model.source"),
        ({"sampling": {"negative_prompt": "{night}"}}, "sampling.negative_prompt"),
        ({"inputs": {"root": "in/{night}"}}, "inputs.root"),
        ({"columns": {"prompt": "{night}"}}, "columns.prompt"),
        ({"storage": {"s3": {"endpoint_url": "http://{night}"}}}, "storage.s3.endpoint_url"),
    ],
)
def test_it_is_refused_elsewhere(values: dict[str, Any], key: str) -> None:
    line = refusal(**values)
    assert line.startswith(f"job: {key}: ")
    assert line.endswith("{night} is allowed only in name, manifest, output")


def test_a_file_name_may_still_use_a_column_of_that_name() -> None:
    spec = RunSpec.from_dict(
        SMALLEST | {"images": {"file_name": "{night}/{image_id}.png"}}, night=NIGHT
    )
    assert spec.images.template == "{night}/{image_id}.png"


@pytest.mark.parametrize("field", ["{nigth}", "{Night}", "{date}", "{night:%Y}", "{ night }"])
@pytest.mark.parametrize("key", ["name", "manifest", "output"])
def test_another_field_in_its_place_is_refused(key: str, field: str) -> None:
    line = refusal(**{key: f"a-{field}"})
    assert line.startswith(f"job: {key}: 'a-{field}': {field} is not known")
    assert "{night}, which becomes a date" in line


def test_alternatives_of_a_glob_and_a_folder_that_is_called_so_are_left_alone(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "{date}"
    odd.mkdir()
    spec = RunSpec.from_dict(SMALLEST | {"manifest": "{a,b}.csv", "output": str(odd)}, night=NIGHT)
    assert (spec.manifest, spec.output) == ("{a,b}.csv", str(odd))


@pytest.mark.parametrize("key", ["name", "manifest", "output"])
def test_without_quotes_in_yaml_it_says_that_they_are_needed(tmp_path: Path, key: str) -> None:
    lines = {"manifest": "p.csv", "output": "press"} | {key: "{night}"}
    path = tmp_path / "job.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    with pytest.raises(SpecError, match=re.escape(f'{key}: {{night}} needs quotes in YAML: "{{')):
        RunSpec.from_file(path)


def test_a_value_that_begins_with_it_needs_quotes_too_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("manifest: {night}.csv\noutput: press\n")
    with pytest.raises(SpecError, match=r"begins with \{night\} needs quotes"):
        RunSpec.from_file(path)


def test_a_run_records_the_date_and_an_older_record_is_read_as_it_is(tmp_path: Path) -> None:
    record = record_of(str(tmp_path), name="cats-{night}", manifest="{night}.csv")
    data = record.to_json()
    assert b"{night}" not in data
    read = RunRecord.from_json(data, "run")
    assert read == record
    assert read.spec.name == f"cats-{tonight()}"
    values = json.loads(data)
    values["spec"]["output"] = "press/{night}"  # a folder of this name, before it meant anything
    assert RunRecord.from_json(json.dumps(values).encode(), "run").spec.output == "press/{night}"


def test_tuning_leaves_it_in_the_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text('name: "cats-{night}"  # every night\nmanifest: "{night}.csv"\noutput: press\n')
    before = RunSpec.from_file(path, night=ANY_NIGHT)
    model = {"dtype": "bfloat16"}
    after = RunSpec.from_dict(before.as_dict() | {"model": before.as_dict()["model"] | model})
    assert rewrite_model(path, before, after, model)
    assert path.read_text().startswith('name: "cats-{night}"  # every night\n')
    assert RunSpec.from_file(path, night=NIGHT).name == "cats-2027-01-15"


def test_a_training_job_may_not_have_it(tmp_path: Path) -> None:
    path = tmp_path / "brand.yaml"
    path.write_text(
        "recipe: lora\noutput: runs/{night}\ndata: {source: pictures}\nmodel: builtin\n"
    )
    with pytest.raises(SpecError, match="allowed only in jobs that make images"):
        read_train_spec(path)


def test_editors_accept_it_in_a_name() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid(SMALLEST)
    assert not validator.is_valid(SMALLEST | {"name": "{day}"})


@pytest.mark.parametrize("name", ["Europe/Berln", "europe/berlin", "Berlin", "", "right/UTC"])
def test_a_time_zone_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not the name of a time zone")):
        zone_named(name)


@pytest.mark.parametrize(
    ("variable", "name"),
    [("Europe/Berlin", "Europe/Berlin"), (":Europe/Berlin", "Europe/Berlin"), ("", "UTC")],
)
def test_the_time_zone_of_a_process_is_that_of_its_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    monkeypatch.setenv("TZ", variable)
    assert zone_name(machine_zone()) == name


def test_a_tz_that_would_silently_be_utc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berln")
    with pytest.raises(SpecError, match="did you mean Europe/Berlin"):
        tonight()
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert zone_name(machine_zone()) is None
