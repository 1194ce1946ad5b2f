"""Which files the rows of a training table may name."""

from pathlib import Path

import pytest

from nightpress.pipelines.training.data.roots import ImageRoots, OutsideRootsError

ROOTS = ["https://cdn.example.com/a", "s3://pictures/", "/mnt/pictures", "s3://other/set"]


@pytest.mark.parametrize(
    ("folder", "value", "url"),
    [
        ("/data", "1.png", "/data/1.png"),
        ("/data", "./deep//1.png", "/data/deep/1.png"),
        ("/data", "deep/../1.png", "/data/1.png"),
        ("/data", "/data/1.png", "/data/1.png"),
        ("/data", "file:///data/1.png", "/data/1.png"),
        ("/data", "/mnt/pictures/1.png", "/mnt/pictures/1.png"),
        ("/data", "https://cdn.example.com/a/1.png?k=v", "https://cdn.example.com/a/1.png?k=v"),
        ("/data", "s3://pictures/1.png", "s3://pictures/1.png"),
        ("s3://b/set", "1.png", "s3://b/set/1.png"),
        ("s3://b/set", "s3://b/set/deep/1.png", "s3://b/set/deep/1.png"),
        ("s3://b/set", "s3://other/set/1 2.png", "s3://other/set/1 2.png"),
    ],
)
def test_files_below_the_tables_folder_and_the_roots_may_be_named(
    folder: str, value: str, url: str
) -> None:
    assert ImageRoots(folder, ROOTS).resolve(value) == url


@pytest.mark.parametrize(
    ("folder", "value"),
    [
        ("/data", "/database/1.png"),
        ("/data", "/data"),
        ("/data", "/mnt/pictures/../secret.png"),
        ("/data", "~/secret.png/../../../etc/passwd"),
        ("/data", "https://cdn.example.com/ab/1.png"),
        ("/data", "https://cdn.example.com/a/../1.png"),
        ("/data", "https://cdn.example.com/a/%2e%2e/1.png"),
        ("/data", "https://cdn.example.com/a\\..\\1.png"),
        ("/data", "http://cdn.example.com/a/1.png"),
        ("/data", "https://cdn.example.com@evil.example/a/1.png"),
        ("/data", "https://cdn.example.com.evil.example/a/1.png"),
        ("/data", "https://cdn.example.com:8443/a/1.png"),
        ("/data", "s3://picturesque/1.png"),
        ("/data", "gs://pictures/1.png"),
        ("/data", "zip://1.png::s3://pictures/a.zip"),
        ("s3://b/set", "/etc/hostname"),
        ("s3://b/set", "../1.png"),
        ("s3://b/set", "s3://b/settings/1.png"),
        ("s3://b/set", "file:///etc/hostname"),
    ],
)
def test_other_files_may_not_be_named(folder: str, value: str) -> None:
    with pytest.raises(OutsideRootsError, match=r"a table may name files in its own folder and in"):
        ImageRoots(folder, ROOTS).resolve(value)


def test_links_may_lead_from_root_to_root(tmp_path: Path) -> None:
    for name in ("table", "pictures", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    for name in ("pictures", "elsewhere"):
        (tmp_path / "table" / name).symlink_to(tmp_path / name)
    (tmp_path / "linked").symlink_to(tmp_path / "table")
    roots = ImageRoots(str(tmp_path / "linked"), [str(tmp_path / "pictures")])
    for value in ("1.png", "pictures/1.png"):
        roots.require_real(roots.resolve(value), value)
    with pytest.raises(OutsideRootsError, match=r"through a link to .*elsewhere/1\.png"):
        roots.require_real(roots.resolve("elsewhere/1.png"), "elsewhere/1.png")


def test_a_shown_url_has_no_password() -> None:
    with pytest.raises(OutsideRootsError) as caught:
        ImageRoots("/data", []).resolve("https://user:secret@example.com/1.png")
    assert "secret" not in str(caught.value)
