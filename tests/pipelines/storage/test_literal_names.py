"""A path that exists is that path, whatever characters it has; only others are patterns."""

import os
from pathlib import Path

import pytest
from support.servers import Server

from nightpress.pipelines.errors import StoreDenied, StoreMissing
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.storage import Store, contents, find, is_local, is_url, open_source
from nightpress.pipelines.storage.urls import absolute, local_path, public

NAMES = (
    *("data[v2]", "a*b", "what?", "{a,b}", "a%20b", "a#b", "a::b", "s3::x", "~", "~nobody-here"),
    *(" blank ", "a  b", "é", "e\u0301", "dots..", "back\\slash", "a:b", "new\nline", "[", "**"),
    *("a@b", "a=b&c", "a;b", "a+b", "'quote\"", "-dash", "$HOME", "猫", "a::Zip::b"),
)

ON_MOTO = ("back\\slash", "dots..", "a#b")  # SeaweedFS takes a backslash for a slash
ON_SEAWEED = (
    *("data[v2]", "a*b", "what?", "{a,b}", "a%20b", "a::b", " blank ", "e\u0301", "new\nline"),
    *("a@b", "a=b&c", "[", "**", "a::Zip::b"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_local_path_that_exists_is_that_path(name: str, here: Path) -> None:
    file, folder = here / f"{name}.csv", here / name
    file.write_bytes(b"1")
    folder.mkdir()
    (folder / "x.csv").write_bytes(b"2")
    (here / "other.csv").write_bytes(b"3")
    for url in (str(file), f"{name}.csv"):
        (found,) = find([url])
        assert found.url == str(file)
        assert not is_url(url)
        assert RunSpec.from_dict({"name": "a", "manifest": url, "output": "o"}).manifests == [url]
        with open_source(url) as stream:
            assert stream.read() == b"1"
    for url in (str(folder), name):
        assert [each.url for each in find([url])] == [str(folder / "x.csv")]
        assert [each.url for each in contents(url)] == [str(folder / "x.csv")]
        assert local_path(url) == folder
        assert absolute_source(url) == str(folder)
        store = Store(url)
        assert store.create("made", b"4")
        assert (folder / "made").read_bytes() == b"4"
        assert store.list() == {"made": 1, "x.csv": 1}
        store.delete("made")
    if name != "~":  # a pattern is no name, so that it begins in the home folder
        assert [each.url for each in find([f"{name}/*.csv"])] == [str(folder / "x.csv")]


@pytest.mark.parametrize(
    ("server", "names"),
    [("seaweed", ON_SEAWEED), pytest.param("moto_s3", ON_MOTO, marks=pytest.mark.slow)],
)
def test_a_name_on_s3_that_exists_is_that_name(
    server: str, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue(server).folder()
    whole = Store(bucket.url, bucket.options)
    for name in (*names, "other"):
        assert whole.create(f"{name}.csv", b"1")
        assert whole.create(f"{name}/x.csv", b"2")
    assert whole.present([f"{name}/x.csv" for name in names]) == {f"{n}/x.csv" for n in names}
    for name in names:
        url = f"{bucket.url}/{name}"
        assert [each.url for each in find([f"{url}.csv"], bucket.options)] == [f"{url}.csv"]
        with open_source(f"{url}.csv", bucket.options) as stream:
            assert stream.read() == b"1"
        for inside in (
            contents(url, bucket.options),
            find([url], bucket.options),
            find([f"{url}/*.csv"], bucket.options),
        ):
            assert [each.url for each in inside] == [f"{url}/x.csv"]
    store = Store(f"{bucket.url}/{names[0]}", bucket.options)
    assert (store.list(), store.read("x.csv")) == ({"x.csv": 1}, b"2")


def test_a_version_on_s3_is_not_dropped(moto_s3: Server) -> None:
    bucket = moto_s3.folder()
    with pytest.raises(StoreDenied, match=r"storage\.s3\.version_aware"):
        find([f"{bucket.url}/a.csv?versionId=1"], bucket.options)


def test_a_pattern_that_is_no_name_stays_a_pattern(here: Path) -> None:
    for name in ("data1", "data2", "data[v2]"):
        (here / name).mkdir()
        (here / name / "x.csv").write_bytes(b"1")
    names = [Path(each.url).parent.name for each in find(["data[12]/*.csv"])]
    assert names == ["data1", "data2"]
    with pytest.raises(StoreMissing, match="the pattern matches no file"):
        find(["data[34]/*.csv"])


def test_two_dots_follow_the_disk_and_not_the_text(here: Path) -> None:
    (here / "real" / "inner").mkdir(parents=True)
    (here / "real" / "x.csv").write_bytes(b"1")
    os.symlink(here / "real" / "inner", here / "link")
    (found,) = find(["link/../x.csv"])
    assert Path(found.url) == here / "real" / "x.csv"


def test_blanks_around_a_path_are_dropped_where_nothing_has_that_name(here: Path) -> None:
    (here / "a.csv").write_bytes(b"1")
    spec = RunSpec.from_dict({"name": "a", "manifest": " a.csv ", "output": "o"})
    assert spec.manifests == ["a.csv"]


def test_chains_begin_with_a_protocol_that_reads_another_file() -> None:
    assert not is_local("zip://a.csv::data.zip")
    assert absolute("ZIP://A.csv::S3://B/K.zip/") == "zip://A.csv::s3://B/K.zip"
    assert absolute("S3://b/K::Zip::x/") == "s3://b/K::Zip::x"


def test_a_url_is_shown_without_secrets_and_otherwise_whole() -> None:
    assert public("s3://b/a#1?.csv") == "s3://b/a#1?.csv"
    assert public("https://me:pw@h/x.csv?sig=1") == "https://h/x.csv"
    assert public("zip://a.csv::https://me:pw@h/x.zip?sig=1") == "zip://a.csv::https://h/x.zip"
    assert public("abfs://me@h/x?sig=1") == "abfs://h/x"


def test_a_file_where_a_folder_is_expected_is_called_one(here: Path) -> None:
    (here / "some.json").write_bytes(b"{}")
    with pytest.raises(StoreDenied, match=r"some\.json/run\.json: this is a file"):
        Store("some.json").read("run.json")


def test_a_link_to_nowhere_is_named_before_anything_is_written(here: Path) -> None:
    os.symlink(here / "gone", here / "out")
    with pytest.raises(StoreDenied, match=r"out is a link to .*gone, which does not exist"):
        Store("out/night").check()
    assert os.listdir(here) == ["out"]
