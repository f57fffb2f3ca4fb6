"""What README says of the results of a protocol, as docs/make_results.py writes it."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from programs import program
from protocol_helpers import small

from mlcourse import learners, places, protocols

PAGE = places.repository() / "docs" / "make_results.py"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs a clone of the repository")


@pytest.fixture(scope="module")
def made():
    return program("docs/make_results.py")


@pytest.fixture(scope="module")
def rows():
    protocol = small(rows=("pixels", "prototypical", "maml"))
    network = learners.build("prototypical", way=5, seed=0, channels=8)
    some = [
        protocols.evaluate(protocol, learners.build("pixels", way=5), name="pixels"),
        protocols.evaluate(protocol, network, name="net", about={"seed": 0}),
    ]
    return protocol, protocols.rows(protocol, some)


def test_a_protocol_has_its_table_its_picture_and_who_has_not_run(made, rows):
    protocol, table = rows
    lines = made.comparison(protocol, table)
    text = "\n".join(lines)
    cells = [line for line in lines if line.startswith("| ")]
    assert len(cells) == 3
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    for row, line in zip(table, cells[1:]):
        assert f"| {100 * row.accuracy:.2f} | ± {100 * (row.over_episodes.upper - row.accuracy):.2f} |" in line
    assert "A row with one training (*seeds*: 1) ranks a network, not a method" in " ".join(made.READ.split())
    assert "trained on" not in text
    assert lines[-1] == f"{made.NO_RESULT}: MAML (second order)."
    alt = re.search(r'alt="([^"]+)"', text)[1]
    for row in table[:2]:
        assert f"{row.title} ({row.first.normalisation}) {100 * row.accuracy:.1f} %" in alt
    assert 'srcset="docs/forest-small-dark.svg"' in text
    assert 'src="docs/forest-small-light.svg"' in text


def test_rows_of_other_training_data_say_so(made, rows):
    """Turned classes are other training data, too: the rows would look alike without the column."""
    protocol, table = rows
    trained = next(row for row in table if row.method == "prototypical")
    results = [row.first for row in table if row.run]
    for data in ("glyphs", "glyphs turned"):
        settings = trained.first.settings | {"data": data}
        results.append(replace(trained.first, trained_on=data, settings=settings))
    lines = made.comparison(protocol, protocols.rows(protocol, results))
    assert any(line.endswith("| trained on |") for line in lines)
    assert sum(line.endswith("| glyphs turned |") for line in lines) == 1
    assert "where that differs, the order says nothing of the methods" in " ".join(lines)


def test_the_pictures_are_for_light_and_for_dark_pages(made, rows, tmp_path):
    made.draw(*rows, tmp_path)
    made.draw(*rows, tmp_path / "again")
    pages = {}
    for page in ("light", "dark"):
        path = tmp_path / f"forest-small-{page}.svg"
        ElementTree.parse(path)
        pages[page] = path.read_text(encoding="utf-8")
        assert "Forest plot of small" in pages[page]
        assert (tmp_path / "again" / path.name).read_text(encoding="utf-8") == pages[page]
    assert "#0d1117" in pages["dark"]
    assert "#0d1117" not in pages["light"]


def test_results_of_the_course_come_into_readme_and_without_any_nothing_does(made, rows, monkeypatch, tmp_path):
    protocol, table = rows
    readme = (places.repository() / "README.md").read_text(encoding="utf-8")
    (tmp_path / "small.json").write_text(json.dumps(protocol.as_json()))
    monkeypatch.setattr(protocols, "names", lambda: [tmp_path / "small.json"])
    monkeypatch.setattr(protocols, "folders", lambda one: (tmp_path / "results", tmp_path / "nowhere"))
    assert made.compared() == []
    assert "forest-small" not in made.updated(readme) + made.page()
    for row in table[:2]:
        protocols.save(row.first, tmp_path / "results" / f"{row.method}.json")
    (found,) = made.compared()
    assert [row.title for row in found[1]] == [row.title for row in table]
    assert 'src="forest-small-light.svg"' in made.page()
    assert " ".join(made.READ.split()) in " ".join(made.page().split())
    assert "forest-small" not in made.updated(readme)
    monkeypatch.setattr(made, "IN_README", ("small",))
    assert "docs/forest-small-light.svg" in made.updated(readme)
    assert " ".join(made.READ.split()) in " ".join(made.updated(readme).split())
    assert "forest-small" not in made.page()
    assert made.updated(made.updated(readme)) == made.updated(readme)


def test_the_pictures_that_readme_shows_are_there(made):
    for protocol, rows in made.compared():
        for page in ("light", "dark"):
            picture = (PAGE.parent / f"forest-{protocol.name}-{page}.svg").read_text(encoding="utf-8")
            assert all(row.title in picture for row in rows if row.run)


@pytest.mark.parametrize(("shot", "shots", "begins"), [
    (1, [1], ""), (5, [5], ""), (5, [], ""),
    (5, [1], "This one was trained on one map"), (3, [5, 1], "The one of one shot was trained on one map"),
])  # fmt: skip
def test_relation_networks_of_one_shot_have_a_word_beside_them_where_there_are_more(made, rows, shot, shots, begins):
    protocol, table = rows
    trained = next(row for row in table if row.method == "prototypical")
    ran = [
        replace(row, method="relation", results=(replace(row.first, settings=row.first.settings | {"shot": count}),))
        for row, count in zip([trained] * len(shots), shots)
    ]
    told = made.sums(replace(protocol, shot=shot), [trained, *ran])
    assert begins in told
    assert bool(told) == bool(begins)
    assert not told or f"the sum of {shot} here" in told.replace("\n", " ")


def test_networks_of_other_encoders_have_a_word_beside_them(made, rows):
    """Each trained row counts, and only those: an untrained network is no rival of a method."""
    _, table = rows
    first = next(row for row in table if row.method == "prototypical").first

    def row(method, steps, **options):
        settings = first.settings | {"options": first.settings["options"] | options}
        return protocols.Row(method, method, (replace(first, method=method, steps=steps, settings=settings),))

    pooled, strided = row("prototypical", 10, downsample="pool"), row("matching", 10, downsample="stride")
    assert made.encoders([pooled, row("matching", None, downsample="stride")]) == ""
    assert made.encoders([strided]) == made.encoders([pooled]) == made.encoders([]) == ""
    told = made.encoders([pooled, strided, row("pixels", None)])
    assert "that of prototypical networks pools" in told
    assert "matching" not in told
