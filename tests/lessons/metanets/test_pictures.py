"""The pictures of notebook 04: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.errors import CourseError
from mlcourse.lessons.metanets import pictures
from mlcourse.teaching import figures

SETTINGS = [(0, pictures.NOTHING, 0.0), (2, "class 1", 0.0), (1, pictures.NOTHING, 0.3), (2, "class 4", 0.6)]


def mean_ink(images, labels):
    """A writer that is easy to follow: a row is the mean ink of 16 fields, for its own image."""
    assert labels.tolist() == list(range(len(images)))
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) - 0.3


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(0)
    episodes, others = torch.rand(3, 5, 1, 28, 28, generator=generator), torch.rand(3, 1, 28, 28, generator=generator)
    return pictures.WrittenHead(mean_ink, episodes, others)


def test_the_picture_follows_its_controls(head):
    assert_follows(head.draw, head.text, SETTINGS, exact=True)


def test_only_the_exchanged_row_moves(head):
    assert head.moved(0, pictures.NOTHING, 0.0) == [0.0] * 5
    moved = head.moved(0, "class 3", 0.0)
    assert moved[3] > 0
    assert [k for k, share in enumerate(moved) if share > 0] == [3]
    assert torch.equal(head.support(0, "class 3", 0.0)[3], head.others[0])
    plain, now = head.rows(1, pictures.NOTHING, 0.0)[2], head.rows(1, pictures.NOTHING, 0.4)[2]
    share = float((now - plain).norm() / plain.norm())
    assert head.moved(1, pictures.NOTHING, 0.4)[2] == pytest.approx(share)
    assert f"class 2 by {100 * share:.0f} %" in head.text(1, pictures.NOTHING, 0.4)


def test_noise_blends_from_the_image_to_the_same_grey(head):
    image, grey = head.episodes[0], head.support(0, pictures.NOTHING, 1.0)
    torch.testing.assert_close(grey, head.support(1, pictures.NOTHING, 1.0))
    torch.testing.assert_close(head.support(0, pictures.NOTHING, 0.25), 0.75 * image + 0.25 * grey)


def test_unequal_numbers_are_refused():
    with pytest.raises(CourseError, match="3 episodes and 2 other images"):
        pictures.WrittenHead(mean_ink, torch.rand(3, 5, 1, 28, 28), torch.rand(2, 1, 28, 28))


def test_main_axes_keep_the_distances_of_a_plane():
    """Points of a plane, turned into twenty dimensions: two main axes give their distances back."""
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(30, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    turn, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    places = torch.from_numpy(pictures.main_axes(flat @ turn[:2] + 5))
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat), atol=1e-6, rtol=0)
    assert places[:, 0].std() > places[:, 1].std()


def test_numbers_are_folded_in_their_order():
    folded = pictures.folded(torch.arange(1.0, 11.0), rows=4)
    assert folded.shape == (4, 3)
    np.testing.assert_array_equal(folded[1], [4, 5, 6])
    assert np.isnan(folded[3, 1:]).all()


def test_pictures_of_results():
    generator = torch.Generator().manual_seed(2)
    points, labels = torch.rand(3, 6, 2, generator=generator), torch.tensor([[0, 1, 0, 1, 1, 0]] * 3)
    written = torch.randn(3, 62, generator=generator)
    drawn = [
        pictures.regions(points, labels, [pictures.GRID[:, 0] > 0] * 3, written, ["a", "b", "c"]),
        pictures.weight_map(written.repeat(4, 1) + torch.arange(12.0)[:, None], torch.linspace(0, 6, 12)),
        pictures.row_map(torch.randn(10, 8, generator=generator), [0, 1] * 5, ["one", "other"]),
        pictures.strips({"γ": written, "β": -written}, 2, rows="3 tasks"),
        pictures.fast_weights(torch.rand(2, 1, 28, 28), torch.tensor([1, 0]), torch.randn(2, 3, 9)),
        pictures.attention(
            torch.rand(3, 1, 28, 28), torch.rand(2, 1, 28, 28), torch.full((2, 3), 1 / 3), title="what is read"
        ),
    ]
    assert len({figures.png(fig) for fig in drawn}) == len(drawn)
    shares = [text.get_text() for text in drawn[-1].axes[0].texts]
    assert shares == ["0.33"] * 6
    colours = pictures.strips({"γ": torch.zeros(2, 8)}, 2, rows="tasks")
    assert b"PNG" in figures.png(colours)[:8]  # nothing written: no division by zero


def test_colour_images_stand_in_a_column_too():
    column = pictures.column_of(np.ones((5, 8, 8, 3), np.float32))
    assert column.shape == (60, 12)


def test_what_is_coloured_by_size_has_a_colour_bar(head):
    generator = torch.Generator().manual_seed(3)
    points, labels = torch.rand(2, 6, 2, generator=generator), torch.tensor([[0, 1, 0, 1, 1, 0]] * 2)
    shades, written = [pictures.GRID[:, 0]] * 2, torch.randn(2, 62, generator=generator)
    drawn = {
        "regions": pictures.regions(points, labels, shades, written, ["a", "b"]),
        "fast_weights": pictures.fast_weights(torch.rand(2, 1, 28, 28), torch.tensor([1, 0]), torch.randn(2, 3, 9)),
        "WrittenHead": head.draw(*SETTINGS[0])[0],
    }
    for name, fig in drawn.items():
        assert [ax for ax in fig.axes if ax.get_label() == "<colorbar>"], name


@pytest.mark.parametrize("together", [True, False])
def test_the_words_of_the_row_map_follow_the_rows(together):
    """Rows that lie by class, and rows that do not, are not described alike."""
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(40, 16, generator=generator)
    classes = [k % 4 for k in range(40)]
    if together:
        rows = 0.1 * rows + torch.randn(4, 16, generator=generator)[classes]
    same, different = pictures.alikeness(rows, classes)
    said = pictures.row_map_text(rows, classes, ["a", "b", "c", "d"])
    assert (same > 0.9) if together else (abs(same) < 0.2)
    assert different < same if together else abs(different) < 0.2
    assert ("for 100 % of the rows" in said) == together
    assert f"cosine of {same:+.2f}" in said


def test_alikeness_is_the_mean_cosine_about_the_common_mean():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]) + 7
    assert pictures.alikeness(rows, [0, 0, 1, 1]) == pytest.approx((1.0, -1.0))
    assert pictures.alikeness(rows, [0, 1, 0, 1]) == pytest.approx((-1.0, 0.0))


def test_the_plan_of_a_meta_network_names_its_parts():
    fig = pictures.meta_network()
    drawn = " ".join(text.get_text() for text in fig.axes[0].texts)
    for part in ("u  makes keys", "b  answers", "d  writes", "m  writes", "memory", "query"):
        assert part in drawn
    assert figures.check_text(pictures.META_NETWORK_TEXT, fig) == pictures.META_NETWORK_TEXT
    assert figures.png(fig)
