"""`croissant.json` of an export: what it is, where its files are, and how it came about.

References: Croissant format specification 1.0 and its vocabulary for responsible AI 1.0,
docs.mlcommons.org/croissant.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from nightpress.pipelines.export.card import CardFacts
from nightpress.pipelines.export.layouts.registry import FILES, LayoutFiles, given_columns
from nightpress.pipelines.export.spec import ExportSpec

CROISSANT_FILE = "croissant.json"

_OWN_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField"),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _OWN_TERMS},
}

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]


def croissant(facts: CardFacts) -> bytes:
    """The file, as JSON-LD."""
    splits = [split for split in facts.spec.splits if facts.summary.num_images.get(split)]
    files = FILES[facts.spec.layout]
    values: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.spec.name,
        "conformsTo": CONFORMS_TO,
        "description": _description(facts),
        "version": "1.0.0",
        "datePublished": facts.summary.finished_at,
        "keywords": ["synthetic", "text-to-image", "nightpress"],
        **({} if facts.spec.licence is None else {"license": facts.spec.licence}),
        "distribution": [each for split in splits for each in _distribution(files, split)],
        "recordSet": [_records(facts, files, split) for split in splits if files.table],
        **{f"rai:{name}": text for name, text in _responsible_ai(facts).items()},
    }
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _description(facts: CardFacts) -> str:
    return (
        f"{facts.summary.total:,} images with captions, made by generative models in "
        f"{len(facts.runs)} runs of nightpress."
    )


def _distribution(files: LayoutFiles, split: str) -> Iterator[dict[str, Any]]:
    """The sets of files of a split."""
    patterns = {"table": (files.table, "application/x-parquet"), "images": files.images}
    for what, (pattern, kind) in patterns.items():
        if pattern:
            yield {
                "@type": "cr:FileSet",
                "@id": f"{split}-{what}",
                "name": f"{split}-{what}",
                "encodingFormat": kind,
                "includes": pattern.format(split=split),
            }


def _records(facts: CardFacts, files: LayoutFiles, split: str) -> dict[str, Any]:
    """The rows of the tables of a split."""
    columns = given_columns(facts.spec.layout, facts.columns)
    fields = [pa.field("caption", pa.string()), *columns]
    if files.columns is not None:
        fields = list(files.columns)
    images = [pa.field(name, pa.string()) for name in files.image_columns]
    ids = _ids(field.name for field in [*images, *fields])
    kinds = {field.name: _kind(field.type) for field in fields}
    found = [
        _field(split, ids[name], name, kind) for name, kind in kinds.items() if kind is not None
    ]
    for name in reversed(files.image_columns):
        image = _field(split, ids[name], name, "sc:ImageObject")
        image["source"]["transform"] = {"jsonPath": "bytes"}
        found.insert(0, image)
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": found}


def _ids(names: Iterable[str]) -> Mapping[str, str]:
    """Name of a column -> its id, which is part of an IRI: without spaces, and unlike others."""
    ids: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.-]", "_", name)
        others = (plain if n == 1 else f"{plain}-{n}" for n in itertools.count(1))
        ids[name] = next(each for each in others if each not in ids.values())
    return ids


def _field(split: str, id_: str, column: str, kind: str) -> dict[str, Any]:
    """A column."""
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{id_}",
        "name": column,
        "dataType": kind,
        "source": {
            "fileSet": {"@id": f"{split}-table"},
            "extract": {"column": column},
        },
    }


def _kind(type_: pa.DataType) -> str | None:
    if pa.types.is_string(type_):
        return "sc:Text"
    if pa.types.is_integer(type_):
        return "sc:Integer"
    if pa.types.is_floating(type_):
        return "sc:Float"
    if pa.types.is_boolean(type_):
        return "sc:Boolean"
    return "sc:DateTime" if pa.types.is_timestamp(type_) else None


def _responsible_ai(facts: CardFacts) -> Mapping[str, Any]:
    """What is known about how the set came about, and what is not."""
    spec, dropped = facts.spec, sum(facts.summary.num_dropped.values())
    models = sum(each.role == "model" for each in facts.licences)
    return {
        "dataCollection": (
            "No image was collected: each was sampled from a generative model with a recorded seed "
            "by nightpress. The metadata inside each file marks it as made by a trained model."
        ),
        "dataCollectionType": ["Others"],
        "dataCollectionMissingData": (
            f"{dropped:,} images of the runs are left out; dropped.parquet names each, with the "
            "reason."
        ),
        "dataPreprocessingProtocol": _preprocessing(spec),
        "dataAnnotationProtocol": [
            f"Each caption is made by the template {spec.caption!r} from the columns of its run. "
            "It says what was asked for; nobody has compared it with the image."
        ],
        "dataUseCases": ["Training and evaluation of models that make or describe images."],
        "dataBiases": [
            f"The images have the biases of the {models} models that made them, and of the "
            "prompts. balance.parquet counts the values of the columns by split."
        ],
        "dataLimitations": [
            "Synthetic images: what they show need not exist, and need not be drawn correctly."
        ],
        "personalSensitiveInformation": [
            "Not examined: a model may have reproduced pictures or faces that it was trained on."
        ],
        "dataReleaseMaintenancePlan": (
            "nightpress export brings the set up to date when its runs change; splits do not move."
        ),
    }


def _preprocessing(spec: ExportSpec) -> list[str]:
    """What was left out because of other images."""
    texts = [_LEAKS[spec.leaks]] if spec.split else []
    if spec.dedup is not None:
        texts.append(_DEDUP[spec.dedup])
    if spec.compares_embeddings:
        texts.append(
            f"Two embeddings are near from a cosine of {spec.cosine:g}. Images without an "
            "embedding were left out."
        )
    return texts


_LEAKS = {
    "keep": "Images of train were not compared with those of other splits.",
    "exact": "Images of train with the same bytes as an image of another split were left out.",
    "near": (
        "Images of train that have the same bytes as an image of another split, or a near "
        "perceptual hash, were left out."
    ),
    "embeddings": (
        "Images of train that have the same bytes as an image of another split, or a near "
        "perceptual hash or embedding, were left out."
    ),
}

_DEDUP = {
    "exact": "Images with the same bytes as an earlier one of their split were left out.",
    "near": (
        "Images with the same bytes as an earlier one of their split, or a near perceptual hash, "
        "were left out."
    ),
    "embeddings": (
        "Images with the same bytes as an earlier one of their split, or a near perceptual hash or "
        "embedding, were left out."
    ),
}
