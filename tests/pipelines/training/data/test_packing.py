"""The packed copy of a data set: written once, atomically, and identified by its content."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.servers import Folder, Server
from support.training_files import CAPTIONS, IMAGES, SIDE, TAR, Packed, image_file, put

from nightpress.pipelines.storage import open_source
from nightpress.pipelines.training.data import DataSpec, folders, pack, samples, tables, tars


def test_packed_data_is_not_read_again(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put({"set/1.png": IMAGES[0], "set/1.txt": b"noise", "a.tar": TAR}, folder)
    opened: list[str] = []

    def counted(url: str, *arguments: Any) -> Any:
        opened.append(url)
        return open_source(url, *arguments)

    for module in (folders, samples, tables, tars):
        monkeypatch.setattr(module, "open_source", counted)
    for source, num in (("set", 2), ("a.tar", 1)):
        spec = DataSpec(source=f"{folder.url}/{source}")
        counts: list[int] = []
        pack(spec, SIDE, True, folder.options, tmp_path / "cache", counts.append)
        assert len(opened) == num
        assert counts == list(range(1, len(counts) + 1))
        for resolution, need_captions in ((SIDE, True), (SIDE - 1, False)):
            pack(spec, resolution, need_captions, folder.options, tmp_path / "cache", counts.append)
        assert len(opened) == num
        assert len(counts) == (1 if source == "set" else 4)
        opened.clear()


def test_changed_content_is_packed_again(packed: Packed) -> None:
    before = packed({"set/1.png": IMAGES[0], "set/1.txt": b"noise"})
    after = packed({"set/1.txt": b"another noise"})
    assert after.captions(0) == ("another noise",)
    assert before.captions(0) == ("noise",)
    assert before.fingerprint != after.fingerprint
    assert packed({"set/1.png": IMAGES[1]}).fingerprint != after.fingerprint
    assert packed({}, need_captions=False).fingerprint != after.fingerprint


def test_the_fingerprint_depends_on_the_content_and_not_on_its_location(
    moto_s3: Server, tmp_path: Path
) -> None:
    images = {f"set/deep/{n}.png": IMAGES[n] for n in range(4)}
    files = images | {f"set/deep/{n}.txt": CAPTIONS[n].encode() for n in range(4)}
    locations = [Folder(str(tmp_path / "here"), {}), Folder(str(tmp_path / "there"), {})]
    fingerprints = set()
    for number, folder in enumerate([*locations, moto_s3.folder()]):
        put(files, folder)
        for source in ("set", "set/**/*.png"):
            spec = DataSpec(source=f"{folder.url}/{source}")
            cache = tmp_path / f"cache-{number}"
            fingerprints.add(pack(spec, SIDE, True, folder.options, cache).fingerprint)
    assert len(fingerprints) == 1
    put({"set/deep/0.txt": b"something else"}, locations[0])
    spec = DataSpec(source=f"{locations[0].url}/set")
    assert pack(spec, SIDE, True, cache=tmp_path / "cache-0").fingerprint not in fingerprints
    put({"set/deep/0.txt": CAPTIONS[0].encode()}, locations[0])
    assert pack(spec, SIDE, True, cache=tmp_path / "cache-0").fingerprint in fingerprints


def test_the_fingerprint_ignores_captions_that_are_not_needed(
    packed: Packed,
) -> None:
    before = packed({"set/1.png": IMAGES[0], "set/1.txt": b"a"}, need_captions=False)
    after = packed({"set/1.txt": b"b"}, need_captions=False)
    assert before.fingerprint == after.fingerprint


PACK = """
import sys
from pathlib import Path
from nightpress.pipelines.training.data import DataSpec, pack
counts = []
data = pack(DataSpec(source=sys.argv[1]), 8, False, cache=Path(sys.argv[2]), progress=counts.append)
print(len(data), len(counts))
"""


def test_two_concurrent_processes_pack_once(tmp_path: Path) -> None:
    put({f"set/{n}.png": IMAGES[n % 4] for n in range(60)}, Folder(str(tmp_path), {}))
    command = [sys.executable, "-c", PACK, f"{tmp_path}/set", f"{tmp_path}/cache"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in both) == ["60 0\n", "60 60\n"]
    folder, lock = sorted((tmp_path / "cache").iterdir())
    assert lock.name == f"{folder.name}.lock"
    assert sorted(path.name for path in folder.iterdir()) == ["index.arrow", "pictures.bin"]


def test_the_partial_folder_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    put({"set/1.png": IMAGES[0]}, Folder(str(tmp_path), {}))
    spec, cache = DataSpec(source=f"{tmp_path}/set"), tmp_path / "cache"
    pack(spec, SIDE, False, cache=cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    partial = folder.rename(cache / f"{folder.name}.partial-dead")
    (partial / "index.arrow").unlink()
    assert len(pack(spec, SIDE, False, cache=cache)) == 1
    assert not partial.exists()


FULL = """
import resource, sys
from pathlib import Path
from nightpress.pipelines.errors import DataError
from nightpress.pipelines.training.data import DataSpec, pack
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    pack(DataSpec(source=sys.argv[1]), 8, False, cache=Path(sys.argv[2]))
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_folder(tmp_path: Path) -> None:
    put({f"set/{n}.png": image_file(n, (60, 60)) for n in range(9)}, Folder(str(tmp_path), {}))
    command = [sys.executable, "-c", FULL, f"{tmp_path}/set", f"{tmp_path}/cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/cache: cannot write the packed images: File too")
    assert line.endswith("free); to use another folder, set XDG_CACHE_HOME")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_packed_images_are_pickled_by_their_path(packed: Packed) -> None:
    data = packed({"a.tar": TAR}, "a.tar")
    pickled = pickle.dumps(data)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert [again.bytes(i) for i in range(len(again))] == IMAGES
    assert (again.fingerprint, again.num_bad) == (data.fingerprint, data.num_bad)
