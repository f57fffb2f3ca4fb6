"""Photos in notebook 13: asked with the real photos where they are, and skipped in one line where they are not."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from mlcourse import files, places
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.lessons.segmentation import photos
from mlcourse.networks import pretrained
from mlcourse.vision.photos import VOID

REAL = os.environ.get("MLCOURSE_DATA")
needs_photos = pytest.mark.skipif(
    not (pretrained.installed() and REAL and (Path(REAL) / "msrc_v2").is_dir()),
    reason="needs mlcourse[photos], and msrc_v2 in the folder that MLCOURSE_DATA names",
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def made():
    """Two queries: one half found, with a false alarm where nobody knows; one all wrong."""
    target = torch.zeros(1, 2, 8, 8, dtype=torch.int64)
    target[..., :4, :] = 1
    target[..., -2:, :] = VOID
    marked = torch.zeros(2, 8, 8, dtype=torch.bool)
    marked[0, :2], marked[0, -2:], marked[1, 4:6] = True, True, True
    x = torch.rand(1, 2, 3, 8, 8, generator=generator())
    return photos.Found("cow", Episode(x[:, :1], target[:, :1], x, target), marked, "a network that saw nothing")


def test_scores_leave_out_what_nobody_labelled():
    assert made().scores == [0.5, 0.0]
    assert str(made()) == "cow: foreground IoU 0.50, 0.00 in 2 photos\n(a network that saw nothing)"


def test_the_picture_shows_hits_false_alarms_and_misses_in_their_colours():
    found = made()
    fig = photos.picture(found)
    shown = [ax.images[0].get_array() for ax in fig.axes]
    plain = [photos.tinted(x, {}) for x in (found.batch.support_x[0, 0], *found.batch.query_x[0])]
    changed = [(abs(a - b).sum(-1) > 1e-6) for a, b in zip(shown, plain, strict=True)]
    assert changed[0].all(1).tolist() == [True] * 4 + [False] * 4
    assert changed[1].all(1).tolist() == [True] * 4 + [False] * 4  # found and missed; void is left alone
    assert changed[2].all(1).tolist() == [True] * 6 + [False] * 2
    assert abs(shown[1][0] - shown[1][3]).max() > 0.1
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["support: cow", "IoU 0.50", "IoU 0.00"]
    assert len(photos.text(found)) > 40
    assert "Foreground IoU 0.50, 0.00." in photos.text(found)
    plt.close(fig)


@pytest.mark.parametrize("lacks", ["network", "photos"])
def test_what_is_missing_is_said_in_one_line_and_skipped(lacks, tmp_path, monkeypatch, capsys):
    if lacks == "network":
        monkeypatch.setattr(pretrained, "PACKAGE", "a_package_that_nobody_has")
    else:
        if not pretrained.installed():
            pytest.skip("needs mlcourse[photos]")
        monkeypatch.setenv("MLCOURSE_DATA", str(tmp_path))
        monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))
    assert photos.find("cow", generator()) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("The photos are skipped: ")
    assert ("mlcourse[photos]" if lacks == "network" else "msrc_v2") in line


def test_the_stored_figures_are_told_with_their_intervals():
    kept = files.read_json(places.data() / "results" / "segmentation_photos.json")["all folds"]["iou"]
    first, *lines = photos.stored().splitlines()
    assert "1,000 tasks each" in first
    assert len(lines) == len(photos.METHODS)
    for line, method in zip(lines, photos.METHODS, strict=True):
        value, half = kept[method]["foreground, per image"]
        assert line.endswith(f"foreground IoU {value:.3f} ± {half:.3f}")


@needs_photos
def test_real_photos_are_asked_and_the_line_says_what_the_network_has_seen():
    found = photos.find("cow", generator())
    assert found.batch.query_x.shape == (1, 4, 3, 224, 224)
    assert found.marked.shape == (4, 224, 224)
    assert "14 of these 21 classes were in it, 'cow' as 'ox'" in str(found)
    again = photos.find("cow", generator())
    assert torch.equal(found.marked, again.marked)
    assert "'grass' was not" in str(photos.find("grass", generator()))
    many = [score for seed in range(4) for score in photos.find("cow", generator(seed)).scores]
    assert sum(many) / len(many) > 0.4
    with pytest.raises(CourseError, match="cannot take the classes 'unicorn'; name some of"):
        photos.find("unicorn", generator())
