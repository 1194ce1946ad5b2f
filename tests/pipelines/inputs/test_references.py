"""What the value of a picture's column names, and what it may not name."""

from pathlib import Path

import pytest

from nightpress.pipelines.errors import InputMissing
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.inputs.references import (
    RunImage,
    located,
    public_form,
    shown,
    with_absolute_root,
)
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import PlannedInput


def test_a_relative_path_starts_from_the_root(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert located("photos/a.png", root) == f"{tmp_path}/photos/a.png"
    assert located("./a b/../ä.png", root) == f"{tmp_path}/ä.png"
    assert located("a.png", "s3://bucket/photos/") == "s3://bucket/photos/a.png"
    assert located("~/a.png", root) == f"{tmp_path}/~/a.png"


def test_one_picture_is_read_where_its_section_says(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    reader = InputReader(InputsSpec(root=str(tmp_path), max_bytes=3), {})
    assert reader.read(PlannedInput("init_image", "a.png")) == b"pict"
    assert reader.read(PlannedInput("init_image", None, b"held")) == b"held"


def test_a_url_or_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    for url in (
        "run://hero/a_00",
        "/photos/a.png",
        "s3://b/k.png",
        "https://a.b/c.png?w=512",
        "file:///x.png",
    ):
        assert located(url, str(tmp_path)) == url


def test_a_relative_path_cannot_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    (tmp_path / "root2").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    for path in ("../secret.png", "out/secret.png", "a/../../secret.png", "../root2/a.png"):
        with pytest.raises(InputMissing, match=r"^leaves inputs\.root, "):
            located(path, str(root))
    assert located("in/a.png", str(root)) == f"{root}/a.png"
    for remote in ("s3://bucket/photos", "https://host/photos"):
        for path in ("../secret.png", "a/../../secret.png"):
            with pytest.raises(InputMissing, match=r"^leaves inputs\.root, "):
                located(path, remote)
    with pytest.raises(InputMissing, match=r"^leaves inputs\.root, "):
        located("%2e%2e/secret.png", "https://host/photos")


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/a.png",
        "https://host/a.png?X-Amz-Signature=secret",
        "https://host/a.png?sig=secret&w=3",
        "https://[me:secret@host/a.png",
        "run://s3://me:secret@bucket/hero/cat_00",
    ],
)
def test_a_url_with_credentials_is_refused_and_never_shown(url: str) -> None:
    with pytest.raises(InputMissing, match=r"^the URL contains credentials; "):
        located(url, None)
    assert "secret" not in shown(url)
    assert "secret" not in (public_form(url) or "")


def test_a_query_without_credentials_stays_because_it_says_which_picture() -> None:
    assert public_form("https://host/a.png?w=512") == "https://host/a.png?w=512"
    assert public_form(None) is None
    assert shown(None) == "(bytes in the manifest)"
    assert len(shown("x" * 10_000)) < 300
    assert "\n" not in shown("a\nb")


@pytest.mark.parametrize("empty", ["", "  ", "a\0b"])
def test_an_empty_value_names_no_file(empty: str) -> None:
    with pytest.raises(InputMissing, match="names no file"):
        located(empty, None)


def test_an_image_of_an_earlier_run_is_named_by_its_run_and_its_id() -> None:
    assert RunImage.parse("run://hero/cat_00") == RunImage("hero", "cat_00")
    assert RunImage.parse("run://hero/a/b_00") == RunImage("hero", "a/b_00")
    assert RunImage.parse("run:///runs/hero/cat_00") == RunImage("/runs/hero", "cat_00")
    assert RunImage.parse("run://s3://b/hero/c_00") == RunImage("s3://b/hero", "c_00")
    assert RunImage.parse("run://hero/cat_00").is_by_name
    for wrong in ("run://", "run://hero", "run://hero/", "run:///cat_00", "run://../x_00"):
        with pytest.raises(InputMissing, match=r"write run://NAME/IMAGE_ID"):
            RunImage.parse(wrong)


def test_the_root_is_made_absolute_once_and_kept_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_absolute_root(InputsSpec()).root == str(tmp_path)
    assert with_absolute_root(InputsSpec(root="photos")).root == f"{tmp_path}/photos"
    assert with_absolute_root(InputsSpec(root="S3://b/x/")).root == "s3://b/x"
    begun = InputsSpec(root="/first")
    assert with_absolute_root(InputsSpec(), begun).root == "/first"
    assert with_absolute_root(InputsSpec(root="/second"), begun).root == "/second"
