"""Content credentials: others trust them, equal inputs give equal bytes, changes are found."""

import zlib
from dataclasses import replace
from functools import cache
from io import BytesIO

import c2pa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cat_facts import CAT
from support.signers import MIME, Studio

from nightpress.pipelines.image_files.content_credentials.c2pa_reader import Judgement, judge
from nightpress.pipelines.image_files.content_credentials.parts import (
    SignedFile,
    split,
    with_store,
    without_credential,
)
from nightpress.pipelines.image_files.content_credentials.statement import Statement
from nightpress.pipelines.image_files.content_credentials.validation import (
    ForeignCredential,
    InvalidCredential,
    read_credential,
)
from nightpress.pipelines.image_files.encoding import (
    decoded,
    encode,
    is_whole,
    read_facts,
)
from nightpress.pipelines.job.images_section import ImagesSpec

FORMATS = ("png", "webp", "jpeg")
EMBEDS = ("full", "minimal", "none")
SAID = Statement("s3://models/sdxl", "1f2e", "cat_00", "2026-11-28T22:00:00Z")


@cache
def studio(algorithm: str = "es256") -> Studio:
    return Studio.new(algorithm)


def file_of(kind: str, facts=CAT, embed: str = "full", colour: int = 7) -> bytes:
    pixels = np.full((24, 40, 3), colour, np.uint8)
    pixels[::2, ::3] = 90
    return encode(pixels, facts, ImagesSpec(format=kind), embed)


def with_part(parts: SignedFile, store: bytes) -> bytes:
    """The file with another credential in the place of its own, and correct checksums."""
    return with_store(parts.unsigned, store)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("embed", EMBEDS)
@pytest.mark.parametrize("algorithm", ["es256", "ed25519"])
def test_c2pa_python_trusts_what_our_authority_has_certified(
    kind: str, embed: str, algorithm: str
) -> None:
    maker = studio(algorithm)
    data = maker.sign.signed(file_of(kind, embed=embed), SAID)
    judged = maker.judged(data, kind)
    assert (judged.state, judged.failures) == ("Trusted", set())
    assert judged.manifest["title"] == "cat_00"
    (actions,) = judged.manifest["assertions"]
    (action,) = actions["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": "s3://models/sdxl", "version": "1f2e"}
    assert action["when"] == "2026-11-28T22:00:00Z"
    assert judged.manifest["signature_info"]["common_name"] == "press"


@pytest.mark.parametrize("kind", FORMATS)
def test_another_authority_is_not_trusted_though_the_signature_is_right(kind: str) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    judged = Studio.new().judged(data, kind)
    assert (judged.state, judged.failures) == ("Valid", set()) or judged.failures == {
        "signingCredential.untrusted"
    }


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    embed=st.sampled_from(EMBEDS),
    algorithm=st.sampled_from(["es256", "ed25519"]),
    prompt=st.text(max_size=300),
    title=st.none() | st.text(max_size=300),
    software=st.text(max_size=40),
)
def test_taking_the_credential_out_gives_the_unsigned_bytes_back(
    kind: str, embed: str, algorithm: str, prompt: str, title: str | None, software: str
) -> None:
    unsigned = file_of(kind, replace(CAT, prompt=prompt), embed)
    said = Statement(software, title=title)
    data = studio(algorithm).sign.signed(unsigned, said)
    assert without_credential(data) == unsigned
    assert without_credential(unsigned) == unsigned
    assert studio(algorithm).sign.signed(unsigned, said) == data
    credential = read_credential(data)
    assert credential is not None
    assert credential.statement == said
    assert is_whole(data) == is_whole(unsigned)
    assert read_facts(data) == read_facts(unsigned)
    assert np.array_equal(decoded(data), decoded(unsigned))


@pytest.mark.parametrize("kind", FORMATS)
def test_no_bit_of_a_credential_can_change_unnoticed(kind: str) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    parts = split(data)
    assert parts is not None
    for place in range(0, len(parts.store), 1 if kind == "jpeg" else 7):
        store = bytearray(parts.store)
        store[place] ^= 1 << place % 8
        changed = with_part(parts, bytes(store))
        if split(changed) is None:  # in a JPEG its first bytes tell it from other segments
            assert (kind, place < 8, is_whole(changed)) == ("jpeg", True, False)
            continue
        with pytest.raises((InvalidCredential, ForeignCredential)):
            read_credential(changed)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_signed_file_is_not_whole(kind: str) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    assert is_whole(data)
    for place in range(0, len(data), 11):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        assert not is_whole(bytes(damaged)), place
    for length in range(0, len(data), 97):
        assert not is_whole(data[:length])


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_pixels_and_swapped_credentials_are_found_by_c2pa_and_by_us(kind: str) -> None:
    maker = studio()
    one, other = (maker.sign.signed(file_of(kind, colour=n), SAID) for n in (7, 8))
    mine, theirs = split(one), split(other)
    assert mine is not None
    assert theirs is not None
    swapped = with_part(mine, theirs.store)
    repainted = with_part(SignedFile(theirs.unsigned, b"", 0, 0), mine.store)
    for forged in (swapped, repainted):
        assert decoded(forged).size == (40, 24)
        assert "assertion.dataHash.mismatch" in maker.judged(forged, kind).failures
        with pytest.raises(InvalidCredential, match="the file has changed since it was signed"):
            read_credential(forged)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_claim_is_found_by_c2pa_and_by_us(kind: str) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    parts = split(data)
    assert parts is not None
    forged = with_part(parts, parts.store.replace(b"cat_00", b"dog_00"))
    assert studio().judged(forged, kind).state == "Invalid"
    with pytest.raises(InvalidCredential, match="has changed since"):
        read_credential(forged)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_credential_of_another_program_is_named_so_and_can_be_taken_out(kind: str) -> None:
    maker, unsigned = studio(), file_of(kind)
    info = c2pa.C2paSignerInfo(
        alg=b"es256", sign_cert=maker.chain.encode(), private_key=maker.key.pem, ta_url=None
    )
    action = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/"}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    manifest = {"claim_generator_info": [{"name": "other"}], "assertions": [actions]}
    out = BytesIO()
    with c2pa.Builder(manifest) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign(signer, MIME[kind], BytesIO(unsigned), out)
    data = out.getvalue()
    with pytest.raises(ForeignCredential, match="another program"):
        read_credential(data)
    taken_out = without_credential(data)
    assert split(taken_out) is None
    assert np.array_equal(decoded(taken_out), decoded(unsigned))


def test_files_without_a_credential_have_none_however_they_end() -> None:
    for kind in FORMATS:
        data = file_of(kind)
        assert split(data) is None
        assert read_credential(data) is None
        for length in range(0, len(data), 13):
            assert split(data[:length]) is None
    assert split(b"") is None


def test_a_png_has_its_credential_right_behind_its_header_with_a_checksum() -> None:
    data = studio().sign.signed(file_of("png"), SAID)
    length = int.from_bytes(data[33:37])
    assert data[37:41] == b"caBX"
    assert zlib.crc32(data[37 : 41 + length]) == int.from_bytes(data[41 + length : 45 + length])


def test_a_jpeg_begins_with_its_jfif_segment_as_before() -> None:
    unsigned = file_of("jpeg")
    data = studio().sign.signed(unsigned, SAID)
    assert data[:20] == unsigned[:20]
    assert data[20:22] == b"\xff\xeb"


def test_statements_certificates_and_files_that_differ_have_different_ids() -> None:
    maker = studio()
    signed = [
        maker.sign.signed(file_of("png"), SAID),
        maker.sign.signed(file_of("png"), replace(SAID, when=None)),
        maker.sign.signed(file_of("png", colour=9), SAID),
        studio("ed25519").sign.signed(file_of("png"), SAID),
    ]
    labels = {maker.judged(data, "png").report["active_manifest"] for data in signed}
    assert len(labels) == 4


def pieces_of(data: bytes, kind: str) -> list[tuple[int, int]]:
    """Start and end of each chunk or segment of a file, with its header."""
    found, at = list[tuple[int, int]](), {"png": 8, "webp": 12, "jpeg": 2}[kind]
    while at < len(data):
        match kind:
            case "png":
                end = at + 12 + int.from_bytes(data[at : at + 4])
            case "webp":
                size = int.from_bytes(data[at + 4 : at + 8], "little")
                end = at + 8 + size + size % 2
            case _:
                is_scan = data[at : at + 2] == b"\xff\xda"
                end = len(data) if is_scan else at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append((at, end))
        at = end
    return found


def with_right_checksum(piece: bytes, kind: str) -> bytes:
    """A chunk of a PNG file with the checksum of its changed content."""
    return piece[:-4] + zlib.crc32(piece[4:-4]).to_bytes(4) if kind == "png" else piece


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("algorithm", ["es256", "ed25519"])
def test_a_change_in_any_part_of_a_file_is_found_by_c2pa_and_by_us(
    kind: str, algorithm: str
) -> None:
    maker = studio(algorithm)
    data = maker.sign.signed(file_of(kind), SAID)
    own = split(data)
    assert own is not None
    pieces = [each for each in pieces_of(data, kind) if each[0] != own.start]
    assert len(pieces) > 3
    tampered = [data + b"\0", data + data[pieces[0][0] : pieces[0][1]]]
    for start, end in pieces:
        middle = (start + end) // 2
        flipped = data[start:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 : end]
        tampered.append(data[:start] + with_right_checksum(flipped, kind) + data[end:])
        tampered.append(data[:start] + data[end:])
        tampered.append(data[:end] + data[start:end] + data[end:])
    for changed in tampered:
        with pytest.raises(InvalidCredential):
            read_credential(changed)
        assert not judge(changed, kind).is_intact


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_saved_again_by_pillow_has_lost_its_credential_or_has_a_wrong_one(
    kind: str,
) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    again = BytesIO()
    decoded(data).save(again, kind.upper())
    assert split(again.getvalue()) is None
    assert read_credential(again.getvalue()) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_c2pa_python_says_whether_a_credential_is_intact_and_who_signed_it(kind: str) -> None:
    data = studio().sign.signed(file_of(kind), SAID)
    assert judge(data, kind) == Judgement(True, (), "press, Studio", None)
    parts = split(data)
    assert parts is not None
    wrong = judge(with_part(parts, parts.store.replace(b"cat_00", b"dog_00")), kind)
    assert not wrong.is_intact
    assert wrong.problems
    cut = judge(data[: parts.start + parts.length // 2], kind)
    assert not cut.is_intact
    assert cut.problems
