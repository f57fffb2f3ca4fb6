"""The files around the package: dependency lists in step, a wheel that carries the data, no address of a mirror."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from programs import program

from mlcourse import __version__, datasets, environment, learners, places
from mlcourse.commands import app
from mlcourse.episodes import EpisodeSampler
from mlcourse.evaluation import evaluate

ROOT = places.repository()
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs a clone of the repository")

TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".cff", ".ipynb", ".js", ".css", ""}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements():
    extras = project()["optional-dependencies"]
    return [
        Requirement(line) for line in [*project()["dependencies"], *(one for extra in extras.values() for one in extra)]
    ]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pairs}


def tracked():
    """The files that git knows, or all files of an archive without its environment."""
    git = shutil.which("git") and (ROOT / ".git").exists()
    if git:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    hidden = {".venv", "work", "runs", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]


# -------------------------------------------------------------------------------- dependency lists


def test_conda_environment_is_the_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == project()["name"]
    specs = [one for one in conda["dependencies"] if isinstance(one, str)]
    pip = [one["pip"] for one in conda["dependencies"] if isinstance(one, dict)]
    assert pip == [["-e ."]]  # everything else comes from pyproject.toml, so the two lists cannot drift apart
    named = {re.match(r"[\w-]+", one)[0]: one for one in specs}
    assert set(named) == {"python", "pip"}
    assert SpecifierSet(named["python"].removeprefix("python")) == SpecifierSet(project()["requires-python"])


def test_constraints_lie_in_the_ranges():
    tested = pins()
    for one in requirements():
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        assert name in tested, f"{one.name} is not in constraints.txt"
        assert one.specifier.contains(tested[name]), f"{one} and {tested[name]}"


def test_constraints_pair_torch_and_torchvision():
    tested = pins()
    assert tested["torchvision"].minor == tested["torch"].minor + 15


def test_constraints_hold_plain_versions_only():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)


def test_oldest_python_is_the_same_everywhere():
    from mlcourse.commands import doctor

    oldest = ".".join(map(str, environment.OLDEST))
    assert project()["requires-python"] == f">={oldest}"
    assert environment.OLDEST == doctor.OLDEST_PYTHON


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project()["version"] == __version__ == citation["version"]


def test_imports_are_declared():
    """Every package that the course imports is named in pyproject.toml, and does not come by chance through another."""
    import ast

    names = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "fontTools": "fonttools"}
    names |= {"jupyter_client": "ipykernel", "requests": "jupyterlab", "websocket": "jupyterlab"}
    names |= {"mistune": "nbconvert", "jupyter_core": "jupyterlab"}
    names |= {"jupyter_server": "jupyterlab", "IPython": "ipykernel", "traitlets": "ipywidgets"}
    names |= {"jinja2": "nbconvert", "docutils": "sphinx", "myst_nb": "myst-nb"}
    names |= {"sphinx_book_theme": "sphinx-book-theme", "axe_core_python": "axe-core-python"}
    declared = {one.name.lower() for one in requirements()}
    for path in [*(ROOT / "mlcourse").rglob("*.py"), *(ROOT / "data").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        shared = [ROOT / "tests", ROOT / "tests" / "notebooks", ROOT / "tests" / "browser"]
        local = {one.stem for room in [path.parent, *shared] for one in room.glob("*.py")} | {"mlcourse"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - local:
                assert names.get(module, module).lower() in declared, f"{path.name} imports {module}"


# -------------------------------------------------------------------------------- what is in the repository


def test_no_mirror_and_no_machine_is_named():
    hosts = re.compile(
        r"https?://[\w.-]*(?:pypi|pythonhosted|anaconda|conda\.|mirror|artifactory|nexus)[\w.-]*", re.IGNORECASE
    )
    machine = re.compile(r"(?<![\w.~])/(?:work|root|home/\w+)/[\w.]+")
    for path in tracked():
        if path.suffix in TEXT and path != ROOT / "tests" / "test_frame.py":
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not hosts.search(text), f"{path}: {hosts.search(text)}"
            assert not machine.search(text), f"{path}: {machine.search(text)}"


def test_configuration_files_parse():
    for name in (
        ".github/workflows/ci.yml",
        ".github/workflows/nightly.yml",
        ".github/workflows/site.yml",
        ".pre-commit-config.yaml",
    ):
        assert yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def test_makefile_and_module_have_the_same_verbs():
    verbs = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(verbs) == {*environment.VERBS, *environment.BARE}


def test_ci_calls_the_command_of_the_readme():
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test")
    for workflow, command in (("ci", "python mlcourse/environment.py test"), ("nightly", "make test-full")):
        assert command in (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_readme_lists_the_notebooks_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in places.notebooks().glob("*.ipynb"):
        assert f"(notebooks/{path.name})" in text


# -------------------------------------------------------------------------------- the wheel


def results_module():
    """docs/make_results.py, which is no part of the package."""
    return program("docs/make_results.py")


def test_the_results_page_and_its_summary_are_made_from_the_results():
    make_results = results_module()
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == make_results.page(), "run docs/make_results.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_results.updated(readme) == readme, "run python docs/make_results.py"
    told = readme[readme.index(make_results.BEGIN) : readme.index(make_results.END)].split("\n\n")[1]
    assert len(told.splitlines()) <= 5
    assert "(docs/results.md)" in told
    one = {"accuracy": 0.95, "ci95": 0.002}
    assert make_results.figure([one]) == "95.00 % ± 0.20 over episodes"
    three = [{"accuracy": accuracy, "ci95": 0.002} for accuracy in (0.94, 0.95, 0.96)]
    both = "95.00 % ± 2.48 over 3 runs, ± 0.20 over episodes"  # 4.303 · 0.01 / √3; episodes as for one run
    assert make_results.figure(three) == both


@pytest.mark.parametrize("seed", [0, 3])
def test_each_row_of_the_results_is_what_its_command_asks_for(seed, capsys):
    for name in ("omniglot", "glyphs"):
        results = json.loads((ROOT / "data" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        for run in results["runs"]:
            baseline = run["steps"] is None
            command = results["commands"]["baseline" if baseline else "evaluate"]
            for asked, given in (("--shot", run["shot"]), ("--episodes", run["episodes"]), ("--query", 15)):
                assert f"{asked} {given} " in command
            assert "--seed EPISODE_SEED" in command
            assert "--way WAY" in command
            if baseline:  # its weights come from the same seed
                assert run["seed"] == run["episode_seed"]
            else:
                assert "--seed SEED" in results["commands"]["train"]
    # what an untrained row's command builds and asks is what its seed says
    words = ["evaluate", "untrained-prototypical", "--episodes", "4", "--query", "2", "--seed", str(seed), "--json"]
    app(words, standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    learner = learners.build("prototypical", way=5, seed=seed).eval()
    expected = evaluate(learner, EpisodeSampler(datasets.load("glyphs", "test"), 5, 1, 2), episodes=4, seed=seed)
    assert (told["accuracy"], told["digest"]) == (expected.value, expected.digest)


def test_what_the_paired_runs_say_is_derived_from_them():
    made = results_module()
    other = [{"points": 70.0, "half_width": 1.0}] * 2
    for points, words in (
        ([1.0, 1.1, 1.2], "ahead in 3, behind in 0, undecided in 0: they beat prototypes here (+1.10 ± 0.25"),
        ([-1.0, -1.1, -1.2], "ahead in 0, behind in 3, undecided in 0: they lost to prototypes here (−1.10 ± 0.25"),
        ([1.0, -1.0], "ahead in 1, behind in 1, undecided in 0: they did not beat prototypes"),
        ([0.1], "ahead in 0, behind in 0, undecided in 1: they did not beat prototypes here."),
        ([2.0], "ahead in 1, behind in 0, undecided in 0: they beat prototypes here."),
    ):
        told = made.verdict(other, [{"points": one, "half_width": 0.3} for one in points])
        assert told.startswith("So the fast weights of the episode are used in 2 of 2 runs; ")
        assert words in told
    unused = made.verdict([{"points": 0.1, "half_width": 0.3}], [{"points": 0.1, "half_width": 0.3}])
    assert "used in 0 of 1 run;" in unused


def test_wheel_carries_the_data(tmp_path):
    if not shutil.which("git") or not (places.repository() / "data" / "glyphs").is_dir():
        pytest.skip("needs the embedded data")
    code = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    for path in tracked():
        inside = path.relative_to(ROOT).as_posix()
        if inside.startswith("data/"):
            assert f"mlcourse/_{inside}" in names
    assert "mlcourse/teaching/course.mplstyle" in names
    assert "mlcourse/teaching/pad/pad.js" in names
