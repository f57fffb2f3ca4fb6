"""A tiny notebook that keeps every rule, for the tests of the harness; it needs no data and no check."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

HEADER = """# 07 · A tiny lesson

| | |
|---|---|
| **Objectives** | add two numbers |
| **Prerequisites** | 05, 06 |
| **Core** | 10 minutes (estimated), 10 of them for exercises 07.1, 07.2 |
| **Stretch** | 5 minutes (estimated), 5 of them for exercise 07.3 |
| **Machine** | 1 minute, measured |
| **Papers** | none |

<details><summary>In class: 50 minutes</summary>

- **Open with:** What is two and two?
- **Expect the guess:** four, from most.
- **Skip:** exercise 07.3.
- **Plan:** 10 min question and guess, 40 min section 1 with exercises 07.1 and 07.2.

</details>
"""

IMPORT = """try:
    from mlcourse.teaching import progress
except ModuleNotFoundError:
    raise SystemExit("%pip install ADDRESS") from None"""

CHECKS = """class checks:  # stands for the lesson's checks
    @staticmethod
    def sums(answer):
        try:
            good = answer(2, 3) == 5
        except Exception:
            good = False
        if good and answer.__name__.startswith("my_"):
            progress.record_pass("07." + answer.__name__[-1], "add")
        return type("Verdict", (), {"passed": good, "answer": answer if good else sum_of_two})"""

CLAIM = {"says": "two and two are four", "method": "addition", "rival": "nothing", "tuned": "it has no options"}

HINT = "<details><summary>It prints ...</summary>Add.</details>"

STUB = '''def my_sum_{k}(a: int, b: int) -> int:
    """Return a + b, both of shape []."""
    return ...'''

SOLUTION = """def solution_sum_{k}(a: int, b: int) -> int:
    return a + b


assert checks.sums(solution_sum_{k}).passed"""


def code(source, *tags, outputs=(), **metadata):
    metadata = {"tags": list(tags), **metadata} if tags else metadata
    cell = new_code_cell(source, metadata=metadata, outputs=list(outputs))
    cell.execution_count = 1 if outputs else None
    return cell


def golden(source, text):
    return code(source, "nbval-check-output", outputs=[new_output("stream", text=text)])


def tiny():
    """A notebook that keeps all rules, as a fresh object that a test may spoil."""
    cells = [
        new_markdown_cell(HEADER),
        code('SEED = 0\nDATASET = "glyphs"\nBUDGET = "lesson"\nDEVICE = "auto"', "parameters"),
        code(IMPORT),
        code("import os\n\n\ndef sum_of_two(a, b):\n    return a + b"),
        code(CHECKS),
        code('class session:\n    end = print\n\n\nbudget = os.environ.get("MLCOURSE_BUDGET", BUDGET)'),
        code('def predict(question, choices):\n    return "no guess"\n\n\npredict("2 + 2?", choices=["3", "4"])'),
        golden("print(sum_of_two(1, 1))", "2\n"),
        golden("print(sum_of_two(1, 2))", "3\n"),
        golden("print(sum_of_two(1, 3))", "4\n"),
    ]
    claim = {"claim": dict(CLAIM)}
    for k, kind in ((1, "core"), (2, "core"), (3, "stretch")):
        cells += [
            new_markdown_cell(f"## Exercise 07.{k}: add ({kind}, difficulty 1 of 5, 5 min)\n\n{HINT}"),
            code(STUB.format(k=k), f"exercise:07.{k}"),
            code(f"sum_{k} = checks.sums(my_sum_{k}).answer"),
        ]
    cells += [
        new_markdown_cell("## 1 · The claim"),
        code("method = sum_of_two"),
        code("result = method(2, 2)", "evidence"),
        code('if budget != "smoke":\n    assert result == 4\nprint("claimed")', "claim", mlcourse=claim),
        new_markdown_cell("## What we left out\n\n## References"),
        code("session.end()"),
        new_markdown_cell("## Solutions"),
    ]
    cells += [code(SOLUTION.format(k=k), "solution", jupyter={"source_hidden": True}) for k in (1, 2, 3)]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["mlcourse"] = {"baseline": "method = lambda a, b: 0"}
    return notebook


def write(notebook, folder, name="07_tiny.ipynb"):
    path = folder / name
    nbformat.write(notebook, path)
    return path
