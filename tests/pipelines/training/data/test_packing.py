"""One copy for a machine: made once, whole or not at all, and known by its content."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.servers import Folder, Server
from support.training_files import CAPTIONS, PICTURES, SIDE, TAR, Packed, picture, put

from nightpress.pipelines.storage import open_source
from nightpress.pipelines.training.data import DataSpec, folders, pack, samples, tables, tars


def test_what_is_packed_is_never_read_again(
    place: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put({"set/1.png": PICTURES[0], "set/1.txt": b"noise", "a.tar": TAR}, place)
    opened: list[str] = []

    def counted(url: str, *arguments: Any) -> Any:
        opened.append(url)
        return open_source(url, *arguments)

    for module in (folders, samples, tables, tars):
        monkeypatch.setattr(module, "open_source", counted)
    for source, num in (("set", 2), ("a.tar", 1)):
        spec = DataSpec(source=f"{place.url}/{source}")
        counts: list[int] = []
        pack(spec, SIDE, True, place.options, tmp_path / "cache", counts.append)
        assert len(opened) == num
        assert counts == list(range(1, len(counts) + 1))
        for resolution, need_captions in ((SIDE, True), (SIDE - 1, False)):
            pack(spec, resolution, need_captions, place.options, tmp_path / "cache", counts.append)
        assert len(opened) == num
        assert len(counts) == (1 if source == "set" else 4)
        opened.clear()


def test_changed_content_is_packed_anew(packed: Packed) -> None:
    before = packed({"set/1.png": PICTURES[0], "set/1.txt": b"noise"})
    after = packed({"set/1.txt": b"another noise"})
    assert after.captions(0) == ("another noise",)
    assert before.captions(0) == ("noise",)
    assert before.fingerprint != after.fingerprint
    assert packed({"set/1.png": PICTURES[1]}).fingerprint != after.fingerprint
    assert packed({}, need_captions=False).fingerprint != after.fingerprint


def test_the_fingerprint_is_of_the_content_wherever_it_lies(
    moto_s3: Server, tmp_path: Path
) -> None:
    pictures = {f"set/deep/{n}.png": PICTURES[n] for n in range(4)}
    files = pictures | {f"set/deep/{n}.txt": CAPTIONS[n].encode() for n in range(4)}
    places = [Folder(str(tmp_path / "here"), {}), Folder(str(tmp_path / "there"), {})]
    prints = set()
    for number, place in enumerate([*places, moto_s3.folder()]):
        put(files, place)
        for source in ("set", "set/**/*.png"):
            spec = DataSpec(source=f"{place.url}/{source}")
            cache = tmp_path / f"cache-{number}"
            prints.add(pack(spec, SIDE, True, place.options, cache).fingerprint)
    assert len(prints) == 1
    put({"set/deep/0.txt": b"something else"}, places[0])
    spec = DataSpec(source=f"{places[0].url}/set")
    assert pack(spec, SIDE, True, cache=tmp_path / "cache-0").fingerprint not in prints
    put({"set/deep/0.txt": CAPTIONS[0].encode()}, places[0])
    assert pack(spec, SIDE, True, cache=tmp_path / "cache-0").fingerprint in prints


def test_the_fingerprint_ignores_captions_that_nobody_needs(
    packed: Packed,
) -> None:
    before = packed({"set/1.png": PICTURES[0], "set/1.txt": b"a"}, need_captions=False)
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


def test_two_processes_at_once_pack_once(tmp_path: Path) -> None:
    put({f"set/{n}.png": PICTURES[n % 4] for n in range(60)}, Folder(str(tmp_path), {}))
    command = [sys.executable, "-c", PACK, f"{tmp_path}/set", f"{tmp_path}/cache"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in both) == ["60 0\n", "60 60\n"]
    folder, lock = sorted((tmp_path / "cache").iterdir())
    assert lock.name == f"{folder.name}.lock"
    assert sorted(path.name for path in folder.iterdir()) == ["index.arrow", "pictures.bin"]


def test_what_a_dead_process_left_half_done_is_swept_and_packed_again(tmp_path: Path) -> None:
    put({"set/1.png": PICTURES[0]}, Folder(str(tmp_path), {}))
    spec, cache = DataSpec(source=f"{tmp_path}/set"), tmp_path / "cache"
    pack(spec, SIDE, False, cache=cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    left = folder.rename(cache / f"{folder.name}.partial-dead")
    (left / "index.arrow").unlink()
    assert len(pack(spec, SIDE, False, cache=cache)) == 1
    assert not left.exists()


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


def test_a_disk_that_takes_no_more_is_told_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    put({f"set/{n}.png": picture(n, (60, 60)) for n in range(9)}, Folder(str(tmp_path), {}))
    command = [sys.executable, "-c", FULL, f"{tmp_path}/set", f"{tmp_path}/cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/cache: cannot keep the packed pictures there: File too")
    assert line.endswith("free); XDG_CACHE_HOME names another place for the cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_it_travels_between_processes_by_its_path(packed: Packed) -> None:
    data = packed({"a.tar": TAR}, "a.tar")
    pickled = pickle.dumps(data)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert [again.bytes(i) for i in range(len(again))] == PICTURES
    assert (again.fingerprint, again.num_bad) == (data.fingerprint, data.num_bad)
