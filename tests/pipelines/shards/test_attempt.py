"""Images that are already in the store: adopted only if they are intact to the last bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.fakes.fake_runs import FakeSampler, attempt_on, make_shard, prepare, work_on

from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.pipelines.image_files import encoding
from nightpress.pipelines.image_files.embedded_metadata import xmp_packet
from nightpress.pipelines.image_files.encoding import encode, is_whole, read_facts
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.shards.attempt import nothing_lost
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.shards.sinks import is_damaged_copy

KINDS = [("png", None), ("webp", None), ("webp", 80), ("jpeg", None)]


class Made:
    """A shard whose images are stored and not committed yet."""

    def __init__(self, folder: Path, kind: str, quality: int | None) -> None:
        self.store, record, self.rows = prepare(folder, ["a", "b", "c"])
        images = ImagesSpec.model_validate({"format": kind, "quality": quality})
        spec = record.spec.model_copy(update={"images": images})
        self.record = replace(record, spec=spec)
        self.run()
        self.committed = read_commit(self.store, 0)
        self.store.delete(shard_path(0))
        self.image: PlannedImage = planned_images(self.rows)[1]
        self.data = self.store.read(self.image.file)

    def run(self) -> FakeSampler:
        sampler = FakeSampler()
        work = work_on(self.rows, attempt=2, look_first=True)
        make_shard(self.store, self.record, self.rows, sampler, work)
        return sampler

    def adopted(self) -> bool:
        work = work_on(self.rows, attempt=2)
        attempt = attempt_on(self.store, self.record, self.rows, work)
        return attempt.adopt_file(self.image, 0.0) is not None


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return Made(tmp_path, *request.param)


def flips(data: bytes, number: int) -> list[bytes]:
    """Copies of the data with one bit flipped, at random positions."""
    places = np.random.default_rng(7).integers(0, 8 * len(data), number).tolist()
    flipped = []
    for place in places:
        other = bytearray(data)
        other[place // 8] ^= 1 << place % 8
        flipped.append(bytes(other))
    return flipped


def test_an_intact_image_is_adopted(made: Made) -> None:
    assert made.adopted()


def test_an_image_with_a_flipped_bit_is_not_adopted_and_recognised_as_a_damaged_copy(
    made: Made,
) -> None:
    for flipped in flips(made.data, 200):
        made.store.put(made.image.file, flipped)
        assert not made.adopted()
        assert is_damaged_copy(flipped, made.data)


def test_a_shard_replaces_the_damaged_images_it_finds_before_it_commits(
    made: Made,
) -> None:
    in_the_facts = bytearray(made.data)
    in_the_facts[made.data.rindex(b'"prompt"') + 1] ^= 1
    for damaged in (*flips(made.data, 3), bytes(in_the_facts), made.data[:-20]):
        made.store.put(made.image.file, damaged)
        assert len(made.run().seeds) == 1
        part = read_commit(made.store, 0)
        assert part.column("status").to_pylist() == ["ok"] * 3
        assert part.column("sha256") == made.committed.column("sha256")
        assert made.store.read(made.image.file) == made.data
        made.store.delete(shard_path(0))


def without_proof(data: bytes, facts: ImageFacts, kind: str, quality: int | None) -> bytes:
    """The same image as older versions wrote it, without a digest."""
    pixels = np.asarray(encoding.opened(data).convert("RGB"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "xmp_packet", lambda facts, _: xmp_packet(facts))
        patch.setattr(encoding, "_with_digest", lambda data: data)
        return encode(
            pixels, facts, ImagesSpec.model_validate({"format": kind, "quality": quality})
        )


@pytest.mark.parametrize(("kind", "quality"), [("webp", None), ("jpeg", None)])
def test_an_image_of_an_older_version_is_made_again_even_if_it_is_intact(
    tmp_path: Path, kind: str, quality: int | None
) -> None:
    made = Made(tmp_path, kind, quality)
    facts = read_facts(made.data)
    assert facts is not None
    older = without_proof(made.data, facts, kind, quality)
    assert read_facts(older) == facts
    assert not is_whole(older)
    for found in (older, *flips(older, 20), older[: len(older) // 2]):
        made.store.put(made.image.file, found)
        assert not made.adopted()
        assert is_damaged_copy(found, made.data)
    made.run()
    assert read_commit(made.store, 0).column("status").to_pylist() == ["ok"] * 3
    assert made.store.read(made.image.file) == made.data


def test_a_file_that_somebody_else_put_there_stays(made: Made) -> None:
    other = made.store.read(planned_images(made.rows)[2].file)
    assert not is_damaged_copy(other, made.data)
    for theirs in (other, b"a note to myself", made.data + b"and more"):
        made.store.put(made.image.file, theirs)
        assert not made.adopted()
        made.run()
        part = read_commit(made.store, 0)
        assert part.column("error_type").to_pylist() == [None, "NameTaken", None]
        assert made.store.read(made.image.file) == theirs
        made.store.delete(shard_path(0))


@pytest.mark.parametrize("own", ["ddim-trailing", "PNDMScheduler", "default"])
def test_an_image_made_with_the_models_own_sampler_names_the_sampler_that_ran(
    own: str, tmp_path: Path
) -> None:
    store, record, rows = prepare(tmp_path, ["a"])
    record = replace(record, model=replace(record.model, own_sampler=own))
    make_shard(store, record, rows, FakeSampler())
    image = planned_images(rows)[0]
    facts = read_facts(store.read(image.file))
    assert (image.scheduler, facts and facts.scheduler) == ("default", own)
    assert read_commit(store, 0).column("scheduler").to_pylist() == [own]


class ShortSightedSampler(FakeSampler):
    """Sees the first word of a text."""

    def lost_text(self, text: str) -> str | None:
        return text.partition(" ")[2] or None


@pytest.mark.parametrize("long", ["refuse", "cut"])
def test_what_was_cut_from_a_prompt_is_recorded_with_its_image_alone(
    long: str, tmp_path: Path
) -> None:
    store, record, rows = prepare(tmp_path, ["a red fox", "fox", "nan and more"])
    model = record.spec.model.model_copy(
        update={"prompts": PromptsSpec.model_validate({"long": long})}
    )
    record = replace(record, spec=record.spec.model_copy(update={"model": model}))
    make_shard(store, record, rows, ShortSightedSampler())
    part = read_commit(store, 0)
    cut = ["red fox", None, None] if long == "cut" else [None] * 3
    assert part.column("prompt_cut").to_pylist() == cut
    assert part.column("negative_prompt_cut").null_count == 3
    images = planned_images(rows)
    facts = [read_facts(store.read(image.file)) for image in images[:2]]
    assert [each and each.prompt_cut for each in facts] == cut[:2]
    assert (b"prompt_cut" in store.read(images[0].file)) == (long == "cut")
    assert b"prompt_cut" not in store.read(images[1].file)
    lost = ShortSightedSampler().lost_text if long == "cut" else nothing_lost
    attempt = attempt_on(store, record, rows, lost=lost)
    assert attempt.adopt_file(images[0], 0.0) is not None
