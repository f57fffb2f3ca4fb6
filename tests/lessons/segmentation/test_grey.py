"""Scenes of one ink in notebook 13: the stored figures of all levels are told as they are."""

from mlcourse import files, places
from mlcourse.lessons.segmentation import grey

KEPT = files.read_json(places.data() / "results" / grey.STORED)["recipes"]["grey"]


def test_each_level_is_a_line_with_each_learner():
    first, *lines = grey.stored().splitlines()
    assert all(words in first for words in grey.LEARNERS.values())
    assert [line.split()[0] for line in lines] == ["4", "8", "16", "32", "64", "128", "256"]
    for line in lines:
        row = KEPT[line.split()[0]]
        assert line.split()[1] == str(row["scenes"])
        for name in grey.LEARNERS:
            value, half = row["learners"][name]["IoU"][grey.FOREGROUND]
            assert f"{value:.3f} ± {half:.3f}" in line


def test_the_columns_stand_under_their_names():
    first, *lines = grey.stored().splitlines()
    places_ = [first.index(words) for words in grey.LEARNERS.values()]
    for line in lines:
        assert all(line[place - 1] == " " and line[place] == "0" for place in places_)
