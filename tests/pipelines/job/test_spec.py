"""The job file: what is accepted, what is refused with which message, what counts as a change."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.job.spec import RunSpec

SMALLEST = {"name": "night", "manifest": "prompts.txt", "output": "runs"}


def job(**values: Any) -> RunSpec:
    return RunSpec.from_dict({**SMALLEST, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(SpecError) as caught:
        job(**values)
    return str(caught.value)


def test_the_smallest_job_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "campaign.v2.yaml"
    path.write_text("manifest: prompts.txt\noutput: s3://press/runs/\n")
    spec = RunSpec.from_file(path)
    assert spec.name == "campaign.v2"
    assert spec.url == "s3://press/runs/campaign.v2"
    assert spec.model.source == "builtin"


@pytest.mark.parametrize("text", ["5e0", "50e-1", "0.5E+1", "5.0"])
def test_a_number_can_have_an_exponent_without_a_point(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"manifest: p.txt\noutput: runs\nsampling: {{guidance_scale: {text}}}\n")
    assert RunSpec.from_file(path).sampling.guidance_scale == 5.0


def test_a_spec_survives_its_own_json() -> None:
    spec = job(
        columns={"scheduler": {"column": "sampler", "values": {1: "ddim"}}, "width": None},
        cluster={"actors": {"min": 2, "max": 9}},
        storage={"s3": {"endpoint_url": "http://127.0.0.1:1"}},
    )
    assert RunSpec.from_dict(spec.as_dict()) == spec


def test_a_model_can_be_a_string_or_a_mapping() -> None:
    assert job(model="org/name@v1") == job(model={"source": "org/name@v1"})


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("batch.shard_size=7", lambda spec: spec.batch.shard_size == 7),
        ("model.dtype=bfloat16", lambda spec: spec.model.dtype == "bfloat16"),
        ("model=elsewhere/model", lambda spec: spec.model.source == "elsewhere/model"),
        ("manifest=[a.csv, b.csv]", lambda spec: spec.manifests == ["a.csv", "b.csv"]),
        ("sampling.guidance_scale=75e-1", lambda spec: spec.sampling.guidance_scale == 7.5),
        ("storage.s3.anon=true", lambda spec: spec.storage == {"s3": {"anon": True}}),
        ("images.file_name=a={id}.png", lambda spec: spec.images.template == "a={id}.png"),
    ],
)
def test_an_override_replaces_any_key(override: str, read: Any) -> None:
    assert read(RunSpec.from_dict({**SMALLEST, "model": "builtin"}, [override]))


@pytest.mark.parametrize("spelled", ["DPM++ 2M Karras", "dpmpp_2m+karras", "DPMSOLVER++-KARRAS"])
def test_a_sampler_is_recorded_under_our_name(spelled: str) -> None:
    spec = RunSpec.from_dict(SMALLEST, [f"sampling.scheduler={spelled}"])
    ours = RunSpec.from_dict(SMALLEST, ["sampling.scheduler=dpmsolver++-karras"])
    assert spec.sampling.scheduler == "dpmsolver++-karras"
    assert spec.identity() == ours.identity()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"samplin": {}}, ["samplin", "no such key", "sampling"]),
        ({"cluster": {"actors": {"mn": 1}}}, ["cluster.actors.mn", "min, max"]),
        (
            {"cluster": {"actors": {"min": 3, "max": 2}}},
            ["cluster.actors", "max (2) must not be below min (3)"],
        ),
        ({"batch": {"size": "many"}}, ["batch.size", "'many'", "integer", "'auto'"]),
        ({"sampling": {"scheduler": "k_lms"}}, ["sampling.scheduler", "'k_lms'", "ddim", "heun"]),
        ({"sampling": {"width": -8}}, ["sampling.width", "-8", "greater than 0"]),
        ({"images": {"format": "gif"}}, ["images.format", "'gif'", "png", "webp", "jpeg"]),
        ({"images": {"file_name": "{id}.jpg"}}, ["images", "{id}.jpg", ".png"]),
        ({"images": {"quality": 9}}, ["images", "quality", "jpeg and webp"]),
        ({"columns": {"caption": "prompt"}}, ["columns", "'caption'", "negative_prompt"]),
        ({"name": "../up"}, ["name", "'../up'"]),
        ({"seed": 2**53}, ["seed", str(2**53)]),
        ({"manifest": 5}, ["manifest", "5"]),
        ({"output": ""}, ["output"]),
        ({"model": {"dtype": "int3"}}, ["model.dtype", "'int3'", "bfloat16"]),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(
    values: dict[str, Any], words: list[str]
) -> None:
    text = refusal(**values)
    assert [word for word in words if word not in text] == []
    assert len(text.splitlines()) == 1


def test_all_mistakes_are_reported_at_once() -> None:
    text = refusal(seed=-1, name="a b", batch={"size": 0})
    assert len(text.splitlines()) == 3


def test_a_missing_key_is_reported() -> None:
    with pytest.raises(SpecError, match="output: this key is required"):
        RunSpec.from_dict({"name": "x", "manifest": "y"})


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIA"},
        {"secret": "x"},
        {"client_kwargs": {"aws_secret_access_key": "x"}},
        {"client_kwargs": {"aws_session_token": "x"}},
        {"nested": [{"password": "x"}]},
        {"connection_string": "x"},
        {"headers": {"Authorization": "x"}},
    ],
)
def test_a_credential_in_the_job_file_is_refused_without_being_shown(
    options: dict[str, Any],
) -> None:
    text = refusal(storage={"s3": options})
    assert "credential" in text
    assert "AWS_ACCESS_KEY_ID" in text


@pytest.mark.parametrize(
    "place",
    [
        {"output": "s3://AKIA:hush-hush@bucket/runs"},
        {"manifest": ["a.csv", "https://me:hush-hush@host/prompts.csv"]},
        {"manifest": "https://b.s3.amazonaws.com/p.csv?X-Amz-Signature=hush-hush&X-Amz-Date=1"},
        {"model": "https://host/model?token=hush-hush"},
    ],
)
def test_a_url_with_credentials_is_refused_without_being_shown(place: dict[str, Any]) -> None:
    text = refusal(**place)
    assert "credentials" in text
    assert "hush-hush" not in text


@pytest.mark.parametrize(
    "values",
    [
        {"sampling": {"guidance_scale": float("inf")}},
        {"cluster": {"gpus_per_actor": float("nan")}},
        {"seed": True},
        {"batch": {"size": "8"}},
        {"manifest": {}},
        {"columns": {"prompt": 7}},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(values: dict[str, Any]) -> None:
    assert refusal(**values)


def test_a_key_id_is_not_a_credential() -> None:
    options = {"s3": {"s3_additional_kwargs": {"SSEKMSKeyId": "alias/press"}, "profile": "p"}}
    assert job(storage=options).storage == options


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "not valid YAML"),
        (b"just text", "mapping of keys"),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
        (b"", "mapping of keys"),
    ],
)
def test_a_file_that_is_not_a_job_is_refused_in_one_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        RunSpec.from_file(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: No such file"):
        RunSpec.from_file(tmp_path / "none.yaml")


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match="key=value"):
        RunSpec.from_dict(SMALLEST, ["batch.size"])


def test_where_a_job_runs_may_change_but_not_what_it_makes() -> None:
    before = job(cluster={"actors": 2}, storage={"s3": {"endpoint_url": "http://a"}})
    assert before.changes(job(output="s3://b", cluster={"actors": 9})) == []
    changes = before.changes(job(seed=7, sampling={"width": 256}))
    assert [str(change) for change in changes] == ["sampling.width: None -> 256", "seed: 0 -> 7"]


def test_speed_options_are_part_of_a_runs_identity() -> None:
    plain, fast = job(), job(model={"speed": {"deep_features": {"interval": 3}}})
    assert [str(change) for change in plain.changes(fast)] == [
        "model.speed.deep_features.branch: None -> 0",
        "model.speed.deep_features.interval: None -> 3",
    ]
    assert fast.changes(RunSpec.from_dict(fast.as_dict())) == []


def test_where_weights_lie_is_no_part_of_a_runs_identity() -> None:
    moved = job(model={"source": "builtin", "memory": {"offload": "group"}})
    assert moved.identity() == job().identity()
    assert not job().changes(moved)


def test_omitted_speed_options_do_not_change_a_runs_identity() -> None:
    later = (
        "config",
        "speed",
        "row_loras",
        "references",
        "prompts",
        "controlnets",
        "embeddings",
        "memory",
    )
    older = {k: v for k, v in job().as_dict()["model"].items() if k not in later}
    assert job().identity()["model"] == older
    assert "packing" not in job().identity()["images"]
    assert job(images={"packing": "parquet"}).identity()["images"]["packing"] == "parquet"
    assert job(model=older).changes(job(model={"speed": {"channels_last": False}})) == []
    cut = {"prompts": {"long": "cut", "weights": "literal"}}
    assert job(model=older).changes(job(model=cut)) == []  # the images of other prompts are equal


def test_row_loras_are_part_of_a_runs_identity() -> None:
    plain, inked = job(), job(model={"row_loras": ["a/ink"]})
    assert [change.field for change in plain.changes(inked)] == ["model.row_loras"]
    louder = job(model={"row_loras": [{"source": "a/ink", "scale": 0.5}]})
    assert [change.field for change in inked.changes(louder)] == ["model.row_loras"]
    assert inked.changes(RunSpec.from_dict(inked.as_dict())) == []
    assert "row_loras: 2 are called 'ink'" in refusal(model={"row_loras": ["a/ink", "b/ink"]})


def test_first_block_cache_needs_a_batch_size_of_one() -> None:
    model = {"speed": {"first_block_cache": {}}}
    assert "batch.size must be 1, not auto" in refusal(model=model)
    assert job(model=model, batch={"size": 1}).batch.size == 1


def test_the_schema_requires_what_a_file_needs() -> None:
    schema = json_schema()
    assert set(schema["required"]) == {"manifest", "output"}
    assert "scheduler" in schema["$defs"]["SamplingSpec"]["properties"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["name", "manifest", "output", "model", "batch", "size", "s3", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_mapping_is_a_job_or_a_spec_error(values: Any) -> None:
    if not isinstance(values, dict):
        values = {"manifest": values}
    words = "accepted"
    try:
        RunSpec.from_dict({**SMALLEST, **values})
    except SpecError as error:
        words = str(error)
    assert words
