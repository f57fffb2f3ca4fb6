"""Markdown of the repository as Markdown of the site: links that lead somewhere, pictures for light and dark pages."""

import html
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"(^ *(?P<mark>```+|~~~+).*?^ *(?P=mark) *$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
PICTURE = re.compile(
    r'<picture>\s*<source[^>]*srcset="(?P<dark>[^"]+)"[^>]*>\s*<img(?P<rest>[^>]*)>\s*</picture>', re.DOTALL
)
COMMENT = re.compile(r"^<!--.*?-->\n?", re.MULTILINE | re.DOTALL)
# pages of the repository that are another page of the site
ELSEWHERE = {
    "README.md": "index.md",
    "notebooks/glossary.md": "docs/glossary.md",
    "mlcourse/README.md": "reference/index.md",
    "notebooks": "docs/syllabus.md",
}


@dataclass
class Links:
    """Where links of the repository lead to on the site.

    root: the repository. pages: what is a page of the site, as paths from the root ("docs/glossary.md").
    files: what pages link to and is no page: to be copied to the same place. It fills while pages are written.
    """

    root: Path
    pages: set[str]
    files: set[str] = field(default_factory=set)

    def rewritten(self, text: str, home: str) -> str:
        """The Markdown of a page that stands in the folder `home` of the repository; code is left alone."""
        parts = FENCE.split(text)
        parts[0::3] = [
            LINK.sub(lambda found: self._link(found, home), self._pictures(one, home)) for one in parts[0::3]
        ]
        del parts[2::3]  # the mark of each fence, which `split` gives, too
        return "".join(parts)

    def _link(self, found: re.Match, home: str) -> str:
        image, words, target = found.groups()
        if target.startswith("#"):
            return f"[{words}](#{slug(_heading(target[1:]))})"
        if re.match(r"[a-z]+:|/", target):
            return found[0]
        where, _, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(home, where))
        there = ELSEWHERE.get(there, there)
        if there not in self.pages:
            if not (self.root / there).is_file() or there.endswith(".ipynb"):
                return words  # a folder of the repository, or a notebook that this site leaves out
            self.files.add(there)
            return f"{image}[{words}]({posixpath.relpath(there, home or '.')})"
        anchor = f"#{anchor}" if anchor else ""
        return f"{image}[{words}]({posixpath.relpath(there, home or '.')}{anchor})"

    def _pictures(self, text: str, home: str) -> str:
        def two(found: re.Match) -> str:
            rest = dict(re.findall(r'(\w+)="([^"]*)"', found["rest"]))
            alt = html.unescape(rest["alt"])
            return "\n" + "".join(
                self.picture(posixpath.normpath(posixpath.join(home, place)), alt, f"only-{page}")
                for page, place in (("light", rest["src"]), ("dark", found["dark"]))
            )

        return PICTURE.sub(two, text)

    def picture(self, place: str, alt: str, look: str = "") -> str:
        """A picture of the repository, with its text. look: a class for CSS."""
        self.files.add(place)
        more = f":class: {look}\n" if look else ""
        return f"\n```{{image}} /{place}\n:alt: {alt}\n{more}```\n"


def _heading(anchor: str) -> str:
    return anchor.replace("-", " ")


def slug(title: str) -> str:
    """The anchor of a heading, as code hosts make it: "Solution 00.1" → "solution-001"."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def without_comments(text: str) -> str:
    """Markdown without its HTML comments: marks of the tools that wrote it."""
    return COMMENT.sub("", text)
