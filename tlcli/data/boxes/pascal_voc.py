"""Pascal VOC: one xml file per image, and lists of images per split.

Format: Everingham et al., "The PASCAL Visual Object Classes Challenge", development kit 2012,
section 9. Coordinates are taken as written: x is xmin, width is xmax - xmin.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from tlcli.data.boxes.box_assembly import assemble
from tlcli.data.boxes.box_repair import OnBadBox
from tlcli.data.boxes.box_table import BoxTable, Category
from tlcli.data.boxes.counted_notes import counted_note
from tlcli.data.boxes.image_headers import OnBadImage, missing_images
from tlcli.data.boxes.image_names import refuse_escapes
from tlcli.data.boxes.raw_parts import RAW_BOX_TYPES, RAW_IMAGE_TYPES, RawPart
from tlcli.data.folders import list_images
from tlcli.data.table import some_names
from tlcli.errors import DataError
from tlcli.results.counted import counted

_ANNOTATIONS = "Annotations"
_LISTS = Path("ImageSets", "Main")
_IMAGE_FOLDERS = ("JPEGImages", "images")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One `object` of an annotation."""

    name: str
    xywh: tuple[float, float, float, float]
    """NaN throughout if a corner is no number; `written` then has the corners' texts."""
    written: str
    is_difficult: bool


@dataclass(frozen=True, kw_only=True)
class VocImage:
    """What one xml file says; width and height are 0 if it does not state them."""

    width: int
    height: int
    objects: tuple[VocObject, ...]


def is_voc_folder(root: Path) -> bool:
    """Say whether `root` has a folder `Annotations` with xml files."""
    return next((root / _ANNOTATIONS).glob("*.xml"), None) is not None


def read_voc_folder(root: Path, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage) -> BoxTable:
    """Read `Annotations`, `ImageSets/Main` and `JPEGImages` (or `images`) of an absolute folder.

    The parts are train, val and test; trainval counts (as train) only where both are absent.
    Without lists all images are one part, `unsplit`. Images are numbered from 1 in the order of
    their names, categories from 1 in the order of theirs.

    Raises:
        DataError: lists, xml files or images are not as they should be.
    """
    stems = sorted(path.stem for path in (root / _ANNOTATIONS).glob("*.xml"))
    files = _list_files(root)
    lists = {split: _read_list(path, known=frozenset(stems)) for split, path in files.items()}
    lists = lists or {"unsplit": stems}
    used = sorted({stem for names in lists.values() for stem in names})
    xmls = {stem: read_voc_xml(root / _ANNOTATIONS / f"{stem}.xml") for stem in used}
    images = pd.DataFrame(
        {
            "path": _image_paths(root, used),
            "image_id": range(1, len(used) + 1),
            "width": [xml.width for xml in xmls.values()],
            "height": [xml.height for xml in xmls.values()],
        },
        index=used,
    )
    names = sorted({item.name for xml in xmls.values() for item in xml.objects})
    categories = [Category(id=number, name=name) for number, name in enumerate(names, start=1)]
    parts = [
        _part(
            [xmls[stem] for stem in chosen],
            images=images.loc[chosen].reset_index(drop=True),
            categories=categories,
            split=split,
            source=str(files.get(split, root)),
        )
        for split, chosen in lists.items()
    ]
    table = assemble(parts, root=root, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    unlisted = sorted(set(stems) - set(used))
    if not unlisted:
        return table
    note = (
        f"{counted(len(unlisted), 'annotated image is', 'annotated images are')} in no list and not"
        f" used: {some_names(unlisted)}."
    )
    return replace(table, notes=(note, *table.notes))


def read_voc_xml(path: Path) -> VocImage:
    """Read one annotation file; document types, and so entities, are refused.

    Raises:
        DataError: the file is no whole xml annotation.
    """
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        tree = ElementTree.fromstring(path.read_bytes(), parser=parser)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is not valid XML: {error}. Is it whole?") from error
    if tree.tag != "annotation":
        raise DataError(f"{path} is no Pascal VOC annotation: it holds <{tree.tag}>.")
    return VocImage(
        width=_side(tree, "width", path=path),
        height=_side(tree, "height", path=path),
        objects=tuple(_object(item, path=path) for item in tree.findall("object")),
    )


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Stop at the declaration that entities would need."""
        raise ValueError(f"it declares a document type ({name}), which is not allowed here")


def _side(tree: ElementTree.Element, key: str, *, path: Path) -> int:
    text = (tree.findtext(f"size/{key}") or "0").strip()
    side = _number(text)
    if not side.is_integer() or side < 0:
        raise DataError(f"{path} states the {key} '{text}', which is no number of pixels.")
    return int(side)


def _object(item: ElementTree.Element, *, path: Path) -> VocObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path} has an object without a name; name its class.")
    texts = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
    left, top, right, bottom = (_number(text) for text in texts)
    xywh = (left, top, right - left, bottom - top)
    if not all(map(math.isfinite, xywh)):
        xywh = (math.nan,) * 4
    pairs = zip(_CORNERS, texts, strict=True)
    written = ", ".join(f"{corner} '{text}'" for corner, text in pairs)
    return VocObject(
        name=name,
        xywh=xywh,
        written=written if math.isnan(xywh[0]) else "",
        is_difficult=(item.findtext("difficult") or "0").strip() not in ("0", "false"),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _list_files(root: Path) -> dict[str, Path]:
    found = {
        name: root / _LISTS / f"{name}.txt"
        for name in ("train", "val", "test", "trainval")
        if (root / _LISTS / f"{name}.txt").is_file()
    }
    if "trainval" in found and not {"train", "val"} & set(found):
        found["train"] = found["trainval"]
    found.pop("trainval", None)
    return found


def _read_list(path: Path, *, known: frozenset[str]) -> list[str]:
    """Return the stems of a list; lines of the challenge's own lists may end in 1, 0 or -1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    stems = [line.strip() for line in lines if line.strip()]
    stems = [s if s in known else re.sub(r"\s+(1|0|-1)$", "", s) for s in stems]
    unknown = [stem for stem in stems if stem not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the {counted(len(stems), 'image')} in {path}"
            f" {'has' if len(unknown) == 1 else 'have'} no xml file in {_ANNOTATIONS}:"
            f" {some_names(unknown)}; add the files or remove the lines."
        )
    if not stems:
        raise DataError(f"{path} lists no images; fill or remove it.")
    return stems


def _image_paths(root: Path, stems: Sequence[str]) -> list[str]:
    """Return the image of each annotation, which has the same name but for the suffix."""
    folder = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root} has {_ANNOTATIONS} but no folder {' or '.join(_IMAGE_FOLDERS)}.")
    by_stem: dict[str, list[str]] = {}
    for name in list_images(folder).images:
        by_stem.setdefault(str(Path(name).with_suffix("")), []).append(name)
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise missing_images(missing, total=len(stems), folder=folder)
    for stem in stems:
        if len(by_stem[stem]) > 1:
            raise DataError(f"{folder} has {some_names(by_stem[stem])}: which one is annotated?")
    refuse_escapes(folder, (by_stem[stem][0] for stem in stems))
    return [f"{folder.name}/{by_stem[stem][0]}" for stem in stems]


def _part(
    xmls: Sequence[VocImage],
    *,
    images: pd.DataFrame,
    categories: Sequence[Category],
    split: str,
    source: str,
) -> RawPart:
    used = {item.name for xml in xmls for item in xml.objects}
    own = tuple(category for category in categories if category.name in used)
    index = {category.name: number for number, category in enumerate(own)}
    rows = [
        (image, index[item.name], *item.xywh, math.nan, False, item.written)
        for image, xml in enumerate(xmls)
        for item in xml.objects
    ]
    columns = [name for name in RAW_BOX_TYPES if name != "annotation_id"]
    boxes = pd.DataFrame(rows, columns=columns).assign(annotation_id=range(1, len(rows) + 1))
    difficult = counted_note(
        "1 object is marked difficult; it counts like all others: {names}.",
        "{number} objects are marked difficult; they count like all others: {names}.",
        [image for image, xml in enumerate(xmls) for item in xml.objects if item.is_difficult],
    )
    return RawPart(
        split=split,
        source=source,
        images=images.astype(RAW_IMAGE_TYPES),
        boxes=boxes.astype(RAW_BOX_TYPES),
        categories=own,
        counted_notes=(difficult,),
    )
