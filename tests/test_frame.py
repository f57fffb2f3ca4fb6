"""The files around the package: dependency lists in step, a wheel that carries the data, no address of a mirror."""

import importlib.util
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

from mlcourse import __version__, environment, places

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

    names = {"PIL": "pillow", "yaml": "pyyaml", "fontTools": "fonttools", "jupyter_client": "ipykernel"}
    names |= {"mistune": "nbconvert", "jupyter_core": "jupyterlab"}
    names |= {"jupyter_server": "jupyterlab", "IPython": "ipykernel", "traitlets": "ipywidgets"}
    names |= {"jinja2": "nbconvert"}
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
    for name in (".github/workflows/ci.yml", ".github/workflows/nightly.yml", ".pre-commit-config.yaml"):
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


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_readme_lists_the_notebooks_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in places.notebooks().glob("*.ipynb"):
        assert f"(notebooks/{path.name})" in text


# -------------------------------------------------------------------------------- the wheel


def test_the_results_table_is_made_from_the_results():
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    make_results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_results)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_results.updated(readme) == readme, "run python docs/make_results.py"
    one = {"accuracy": 0.95, "ci95": 0.002}
    assert make_results.figure([one]) == "95.00 ± 0.20 %"
    three = [{"accuracy": accuracy} for accuracy in (0.94, 0.95, 0.96)]
    assert make_results.figure(three) == "95.00 ± 2.48 %"  # 4.303 · 0.01 / √3


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
