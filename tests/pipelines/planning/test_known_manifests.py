"""Real manifests: their headers and quotes, and the whole files if they are available."""

from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, images_by_id, job, planned

from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.planning import check

NEARBY = Path(__file__).parents[4] / "shared" / "manifests"

WHOLE: dict[str, tuple[int, dict[str, Any]]] = {
    "PartiPrompts.tsv": (1632, {"prompt": "Prompt"}),
    "mlperf-coco2014-captions.tsv": (5000, {"prompt": "caption", "width": None, "height": None}),
    "t2i-compbench-color.txt": (860, {}),
    "t2i-compbench-numeracy.txt": (1000, {}),
    "t2i-compbench-shape.txt": (1000, {}),
    "t2i-compbench-spatial.txt": (1000, {}),
}

PARTI = """Prompt\tCategory\tChallenge\tNote
bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings
"G I G G L E" painted in thick colorful lettering\tIllustrations\tWriting & Symbols\t
the saying "BE EXCELLENT TO EACH OTHER" on a wall\tOutdoor Scenes\tWriting & Symbols\t
Dogs playing poker\tAnimals\tImagination\tDescription of "Dogs Playing Poker"
"""

MLPERF = """id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url
70\t227049\tA city at night.\t640\t480\ta.jpg\thttp://example.org/a.jpg
173295\t565395\t"A frisbee that says ""Cheese Shop"" on it."\t480\t640\tb.jpg\thttp://example.org/b
"""


def test_partiprompts_keep_their_quotes(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text(PARTI)
    template = {"file_name": "{Category}/{Challenge}/{image_id}.png"}
    spec = job(tmp_path, tmp_path / "m.tsv", columns={"prompt": "Prompt"}, images=template)
    images = images_by_id(planned(spec)[1])
    assert images["00000001_00"]["prompt"] == '"G I G G L E" painted in thick colorful lettering'
    assert images["00000001_00"]["Note"] is None
    assert images["00000001_00"]["file"] == (
        "images/Illustrations/Writing & Symbols/00000001_00.png"
    )
    assert images["00000003_00"]["Note"] == 'Description of "Dogs Playing Poker"'


def test_mlperf_captions_lose_their_quotes(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text(MLPERF)
    _, columns = WHOLE["mlperf-coco2014-captions.tsv"]
    images = images_by_id(planned(job(tmp_path, tmp_path / "m.tsv", columns=columns))[1])
    row = images["173295_00"]
    assert row["prompt"] == 'A frisbee that says "Cheese Shop" on it.'
    assert (row["manifest_image_id"], row["file_name"]) == ("565395", "b.jpg")
    assert (row["manifest_width"], row["width"]) == ("640", MODEL.width)


@pytest.mark.parametrize("name", [name for name in WHOLE if (NEARBY / name).exists()])
def test_every_row_of_a_real_manifest_is_planned(tmp_path: Path, name: str) -> None:
    num_rows, columns = WHOLE[name]
    layout = check(job(tmp_path, NEARBY / name, columns=columns), MODEL)
    assert (layout.num_rows, layout.num_images) == (num_rows, num_rows)
    assert layout.prompts == PromptCounts()  # no weights, no tags, no doubled parentheses
