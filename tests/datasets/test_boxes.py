"""Photos with boxes: two layouts that say the same, and what each kind of faulty or hostile file says."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcourse.datasets import boxes
from mlcourse.errors import CourseError, CourseWarning

REAL = os.environ.get("MLCOURSE_DATA")
WIDTH, HEIGHT = 40, 30


def real(folder):
    there = bool(REAL) and (Path(REAL) / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs {folder} in the folder that MLCOURSE_DATA names")


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8) if pixels is None else pixels).save(path, **options)


# What both layouts tell here: photo 0 an ace and a king, photo 1 a king, photo 2 nothing.
TOLD = {"0.jpg": [("ace", (2, 3, 12, 23)), ("king", (20, 5, 40, 30))], "1.jpg": [("king", (0, 0, 10, 10))], "2.jpg": []}
NAMES = ("ace", "king")


def as_coco(place):
    photos = [{"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(TOLD)]
    objects = [
        {"image_id": 10 + i, "category_id": 3 + NAMES.index(kind), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, found in enumerate(TOLD.values())
        for kind, (x0, y0, x1, y1) in found
    ]
    kinds = [{"id": 3 + i, "name": name} for i, name in enumerate(NAMES)]
    for name in TOLD:
        save(place / "images" / name)
    return {"images": photos, "annotations": objects, "categories": kinds}


def as_voc(place, name, found):
    things = "".join(
        f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for kind, (x0, y0, x1, y1) in found
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    path = place / "Annotations" / name.replace(".jpg", ".xml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{name}</filename>{size}{things}</annotation>")
    save(place / "JPEGImages" / name)
    return path


@pytest.fixture
def coco(tmp_path):
    """A folder of the COCO layout, its content, and a function that writes the content."""
    place = tmp_path / "cards"
    content = as_coco(place)

    def write():
        (place / "annotations.json").write_text(json.dumps(content))
        return place

    write()
    return place, content, write


@pytest.fixture
def voc(tmp_path):
    place = tmp_path / "cards"
    for name, found in TOLD.items():
        as_voc(place, name, found)
    return place


def told(read):
    return {
        file.name: [(read.names[kind], tuple(box)) for kind, box in zip(kinds.tolist(), corners.tolist())]
        for file, kinds, corners in zip(read.files, read.classes, read.boxes)
    }


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_both_layouts_give_the_same_boxes(layout, request):
    given = request.getfixturevalue(layout)
    read = boxes.load(given[0] if layout == "coco" else given)
    assert told(read) == TOLD
    assert (read.names, read.name, read.left_out, len(read)) == (NAMES, "cards", (), 3)
    assert set(read.sizes) == {(HEIGHT, WIDTH)}
    assert [one.shape for one in read.boxes] == [(2, 4), (1, 4), (0, 4)]
    assert {one.dtype for one in read.boxes} == {torch.float32}
    assert not torch.cat(read.aside).any()
    image = read.image(-1)
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    with pytest.raises(CourseError, match="photo 3 does not exist: cards has 3"):
        read.image(3)
    save(read.files[0], np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(CourseError, match=r"0\.jpg has changed since its boxes were read: load the data set again"):
        read.image(0)


def test_crowds_and_difficult_boxes_are_set_aside(coco, voc, tmp_path):
    place, content, write = coco
    content["annotations"][0]["iscrowd"] = 1
    write()
    assert boxes.coco(place / "annotations.json", place / "images").aside[0].tolist() == [True, False]
    path = voc / "Annotations" / "1.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    assert boxes.voc(voc).aside[1].tolist() == [True]


def test_a_box_that_rounding_put_beyond_the_edge_is_cut_there(coco):
    _, content, write = coco
    content["annotations"][1]["bbox"] = [20.0, 5.0, 20.6, 25.4]
    assert told(boxes.load(write()))["0.jpg"][1] == ("king", (20, 5, WIDTH, HEIGHT))


# ------------------------------------------------------------------ what is wrong with boxes


BAD_BOXES = [
    ([50, 5, 10, 10], "lies outside its photo of 40×30 pixels"),
    ([35, 5, 10, 10], "lies outside its photo of 40×30 pixels"),
    ([-3, 5, 10, 10], "lies outside its photo of 40×30 pixels"),
    ([40, 5, 0.5, 10], "lies outside its photo of 40×30 pixels"),
    ([5, 5, 0, 10], "has no area"),
    ([5, 5, 10, 0], "has no area"),
    ([20, 5, -10, 10], "has its ends exchanged"),
    ([20, 15, 10, -10], "has its ends exchanged"),
    ([20, 15, float("nan"), 10], "is not finite"),
    ([20, 15, float("inf"), 10], "is not finite"),
]


@pytest.mark.parametrize(("box", "says"), BAD_BOXES)
def test_a_bad_box_of_coco_is_named_or_its_photo_left_out(coco, box, says):
    place, content, write = coco
    content["annotations"][0]["bbox"] = box
    write()
    with pytest.raises(CourseError, match=rf"annotations\.json: the box \(.*\) of 0\.jpg {says}.*: correct or remove"):
        boxes.load(place)
    with pytest.warns(CourseWarning, match="cards: left out 1: "):
        read = boxes.load(place, skip_damaged=True)
    assert told(read) == {name: found for name, found in TOLD.items() if name != "0.jpg"}  # with its other box, too
    assert re.search(says, read.left_out[0])


@pytest.mark.parametrize(("box", "says"), BAD_BOXES[:8])
def test_a_bad_box_of_voc_is_named_or_its_photo_left_out(voc, box, says):
    x, y, width, height = box
    as_voc(voc, "0.jpg", [("ace", (x, y, x + width, y + height))])
    with pytest.raises(CourseError, match=rf"0\.xml: the box \(.*\) of 0\.jpg {says}.*: correct or remove"):
        boxes.load(voc)
    with pytest.warns(CourseWarning):
        read = boxes.load(voc, skip_damaged=True)
    assert [file.name for file in read.files] == ["1.jpg", "2.jpg"]


# ------------------------------------------------------------------ what is wrong with photos


def damaged(path):
    path.write_bytes(path.read_bytes()[:-200])


def missing(path):
    path.unlink()


def another_size(path):
    save(path, np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8))


def grey(path):
    save(path, np.zeros((HEIGHT, WIDTH), np.uint8))


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 8
    save(path, exif=exif)


FAULTS = [
    (damaged, r"1\.jpg is no readable picture \(.*\): replace or remove it"),
    (missing, r"names the photo .*1\.jpg, which is missing: add it, or remove what is told of it"),
    (another_size, r"1\.jpg has 40×31 pixels, but .* says 40×30: take the photo that was labelled"),
    (grey, r"1\.jpg is grey among photos in colour: save it as RGB, or remove it"),
    (turned, r"1\.jpg is turned by its EXIF tag, .*: save it upright without the tag"),
]


@pytest.mark.parametrize("layout", ["coco", "voc"])
@pytest.mark.parametrize(("harm", "says"), FAULTS, ids=[harm.__name__ for harm, _ in FAULTS])
def test_a_faulty_photo_is_named_with_its_remedy_or_left_out_and_listed(layout, harm, says, request):
    given = request.getfixturevalue(layout)
    place, photos = (given[0], "images") if layout == "coco" else (given, "JPEGImages")
    harm(place / photos / "1.jpg")
    with pytest.raises(CourseError, match=says + ".*, or leave such photos out with skip_damaged=True"):
        boxes.load(place)
    with pytest.warns(CourseWarning, match="cards: left out 1: "):
        read = boxes.load(place, skip_damaged=True)
    assert [file.name for file in read.files] == ["0.jpg", "2.jpg"]
    assert re.search(says, read.left_out[0])


def test_grey_photos_alone_are_fine(voc):
    for name in TOLD:
        grey(voc / "JPEGImages" / name)
    read = boxes.load(voc)
    assert read.image(0).shape == (3, HEIGHT, WIDTH)
    save(voc / "JPEGImages" / "2.jpg")
    with pytest.raises(CourseError, match=r"2\.jpg is in colour among grey photos: save it as grey"):
        boxes.load(voc)


def test_nothing_that_is_left_is_an_error(coco):
    place, *_ = coco
    for name in TOLD:
        missing(place / "images" / name)
    with pytest.warns(CourseWarning), pytest.raises(CourseError, match="cards holds no photo with boxes"):
        boxes.load(place, skip_damaged=True)


# ------------------------------------------------------------------ what is wrong with files of boxes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c.update(categories={}), "has no list 'categories'"),
        (lambda c: c["annotations"].append(3), "has no list 'annotations'"),
        (lambda c: c["images"][0].pop("width"), "has an entry of 'images' whose 'width' is None"),
        (lambda c: c["images"][0].update(file_name="../../0.jpg"), "which leads out of its folder"),
        (lambda c: c["images"][0].update(file_name="/etc/hostname"), "which leads out of its folder"),
        (lambda c: c["images"][0].update(file_name="C:\\0.jpg"), "which leads out of its folder"),
        (lambda c: c["images"][1].update(id=10), "has two photos of the id 10"),
        (lambda c: c["images"][1].update(file_name="0.jpg"), r"names the photo '0\.jpg' twice"),
        (lambda c: c["categories"][1].update(name="ace"), "has two categories of one id or name"),
        (lambda c: c["annotations"][0].update(category_id=99), "has a box of the category 99"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"has a box \[1, 2, 3\]: give \[x, y, width, height\]"),
        (lambda c: c["annotations"][0].update(bbox=["1", 2, 3, 4]), "has a box"),
        (lambda c: c["annotations"][0].update(bbox=[10**400, 2, 3, 4]), "has a box"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "has a box whose 'iscrowd' is '0': write 0 or 1"),
        (lambda c: c["annotations"][0].update(iscrowd=None), "has a box whose 'iscrowd' is None"),
        (lambda c: c["annotations"][0].update(iscrowd=2), "has a box whose 'iscrowd' is 2"),
        (lambda c: c["annotations"][0].update(iscrowd=[]), r"has a box whose 'iscrowd' is \[\]"),
        (lambda c: c["annotations"][0].update(image_id=True), "whose 'image_id' is True"),
    ],
)
def test_a_faulty_json_is_named(coco, change, says):
    _, content, write = coco
    change(content)
    with pytest.raises(CourseError, match=rf"annotations\.json {says}|annotations\.json .*{says}"):
        boxes.load(write())


@pytest.mark.parametrize("text", ["{", "", "[]", '{"images": ' + "9" * 5000 + "}", "[" * 100_000, "\xff"])
def test_a_damaged_json_is_named(coco, text):
    place, *_ = coco
    (place / "annotations.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CourseError, match=r"annotations\.json (is damaged|holds no JSON object)"):
        boxes.load(place)


def test_a_box_of_a_photo_that_the_json_does_not_list_is_named_or_left_out(coco):
    place, content, write = coco
    content["annotations"].append({"image_id": 77, "category_id": 3, "bbox": [1, 1, 2, 2]})
    with pytest.raises(CourseError, match="has a box of the photo with id 77, which it does not list: add or remove"):
        boxes.load(write())
    with pytest.warns(CourseWarning):
        assert told(boxes.load(place, skip_damaged=True)) == TOLD


LAUGHS = '<!DOCTYPE a [<!ENTITY l0 "ha">{}]>'.format(
    "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "<annotation><filename>&l9;</filename></annotation>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename></annotation>',
        "<!DOCTYPE annotation SYSTEM 'http://example.org/a.dtd'><annotation/>",
        "<annotation><filename>0.jpg</filename>",
        "",
        "\0",
    ],
    ids=["entities that blow up", "entity of a file", "document type elsewhere", "cut", "empty", "zero byte"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_unsafe_or_damaged_xml_is_refused_at_once(voc, text, encoding):
    (voc / "Annotations" / "1.xml").write_bytes(text.encode(encoding))
    began = time.process_time()
    with pytest.raises(CourseError, match=r"1\.xml is no safe and whole xml file \(.*\): replace or remove it"):
        boxes.load(voc)
    assert time.process_time() - began < 5
    with pytest.warns(CourseWarning):
        assert len(boxes.load(voc, skip_damaged=True)) == 2


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ("<filename>1.jpg</filename>", "", "has no <filename>"),
        ("<filename>1.jpg", "<filename>../1.jpg", "which leads out of its folder"),
        ("<xmin>1</xmin>", "<xmin>one</xmin>", "has 'one' as <bndbox><xmin>: give a number"),
        ("<xmin>1</xmin>", "", "has no <bndbox><xmin>"),
        ("<width>40</width>", "<width>inf</width>", "has 'inf' as <size><width>"),
        ("<name>king</name>", "<name> </name>", "has no <name>"),
        ("<difficult>0</difficult>", "<difficult>true</difficult>", "has 'true' as <difficult>: write 0 or 1"),
        ("<xmin>1</xmin>", "<xmin>1</xmin><xmin>3</xmin>", "has <bndbox><xmin> twice in one place: keep one"),
        ("<name>king</name>", "<name>king</name><name>ace</name>", "has <name> twice in one place"),
    ],
)
def test_a_faulty_xml_is_named(voc, then, now, says):
    path = voc / "Annotations" / "1.xml"
    text = path.read_text()
    assert then in text
    path.write_text(text.replace(then, now))
    with pytest.raises(CourseError, match=rf"1\.xml .*{says}"):
        boxes.load(voc)


def test_a_photo_that_two_files_tell_of_is_named_or_left_out(voc):
    twin = voc / "Annotations" / "a.xml"
    twin.write_bytes((voc / "Annotations" / "1.xml").read_bytes())
    says = r"1\.xml and a\.xml tell of the same photo '1\.jpg': join them in one file"
    with pytest.raises(CourseError, match=says):
        boxes.load(voc)
    with pytest.warns(CourseWarning, match="cards: left out 1: "):
        read = boxes.load(voc, skip_damaged=True)
    assert told(read) == {name: found for name, found in TOLD.items() if name != "1.jpg"}
    assert re.search(says, read.left_out[0])


def test_a_list_that_stands_twice_in_the_json_loses_nothing_in_silence(coco):
    place, *_ = coco
    path = place / "annotations.json"
    path.write_text(path.read_text().replace('"annotations": [', '"annotations": [], "annotations": [', 1))
    with pytest.raises(CourseError, match=r"annotations\.json has 'annotations' twice in one object"):
        boxes.load(place)


def test_a_folder_of_no_such_layout_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"holds neither annotations\.json nor a folder Annotations"):
        boxes.load(tmp_path)
    with pytest.raises(CourseError, match=r"no folder .*playing_cards: name a local copy"):
        boxes.load("playing_cards", root=tmp_path)


# ------------------------------------------------------------------ real data


@pytest.mark.parametrize(
    ("name", "photos", "total", "classes"),
    [
        pytest.param("playing_cards", 363, 670, 6, marks=real("playing_cards")),
        pytest.param("bccd", 364, 4886, 3, marks=real("bccd")),
    ],
)
def test_real_boxes(name, photos, total, classes):
    read = boxes.load(name, root=REAL)
    assert (len(read), sum(map(len, read.boxes)), len(read.names), read.left_out) == (photos, total, classes, ())
    for index in (0, len(read) // 2, -1):
        height, width = read.sizes[index]
        assert read.image(index).shape == (3, height, width)
        assert (read.boxes[index][:, 2:] <= torch.tensor([width, height])).all()
        assert (read.boxes[index][:, 2:] > read.boxes[index][:, :2]).all()
