"""What must hold for the pages that came out: links lead somewhere, pictures have a text, and no other host is asked.

Contrast and the keyboard need a browser: tests/browser/test_site.py asks axe-core.
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# element → the attributes whose address a browser fetches by itself
FETCHED = {
    "img": ("src", "srcset"), "source": ("src", "srcset"), "script": ("src",), "iframe": ("src",),
    "video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "input": ("src",),
    "image": ("href", "xlink:href"), "use": ("href", "xlink:href"), "track": ("src",),
}  # fmt: skip
RELATIONS = {
    "stylesheet",
    "icon",
    "shortcut",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
IN_STYLE = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])(?P<address>[^'")\s]+)""")
IN_PROGRAM = re.compile(
    r"""(?:fetch|import|importScripts|new\s+(?:WebSocket|Worker|EventSource))\s*\(\s*['"`](?P<address>(?:https?:)?//[^'"`]+)"""
)
OTHER_HOST = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)
WEIGHED = (".css", ".js", ".woff2", ".woff", ".ttf")


@dataclass
class Page(HTMLParser):
    """What a page names, links to, fetches, and shows without a text."""

    names: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)  # pictures without a text
    styles: list[str] = field(default_factory=list)
    _inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note what an element says."""
        given = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in ("style", "script") else ""
        self.names |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and RELATIONS & set(given.get("rel", "").split()):
            self.fetched.append(given.get("href", ""))
        for name in FETCHED.get(tag, ()):
            if given.get(name):
                self.fetched += _addresses(given[name]) if name == "srcset" else [given[name]]
        if "style" in given:
            self.styles.append(given["style"])
        if tag == "img" and not given.get("alt", "").strip():
            self.silent.append(f"<img src={given.get('src', '')[:80]}>")
        if tag == "svg" and given.get("role") == "img" and not given.get("aria-label", "").strip():
            self.silent.append("<svg role=img>")

    def handle_endtag(self, tag: str) -> None:
        """Leave a style or a program."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Keep the text of styles."""
        if self._inside == "style":
            self.styles.append(data)


def _addresses(srcset: str) -> list[str]:
    return [one.split()[0] for one in srcset.split(",") if one.strip()] if not srcset.startswith("data:") else []


def read(path: Path) -> Page:
    """A page, read."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, a line each: "methods/maml.html: …". An empty list: nothing."""
    pages = {path.resolve(): read(path) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve()).as_posix()
        found += [f"{name}: a picture without a text: {one}" for one in page.silent]
        found += [f"{name}: {one}" for one in _links(path, page, pages, folder.resolve())]
        found += [f"{name}: {one}" for one in _fetched(path, page)]
    for path in sorted([*folder.rglob("*.css"), *folder.rglob("*.js")]):
        styles = path.suffix == ".css"
        pattern, text = IN_STYLE if styles else IN_PROGRAM, path.read_text(encoding="utf-8", errors="replace")
        name = path.relative_to(folder).as_posix()
        for one in (match["address"] for match in pattern.finditer(text)):
            if styles or OTHER_HOST.match(one):
                found += [f"{name}: {fault}" for fault in _unreached(path, one)]
    return found


def _links(path: Path, page: Page, pages: dict[Path, Page], top: Path) -> list[str]:
    wrong = []
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        anchor = unquote(parts.fragment)
        if top not in target.parents or not target.exists():
            wrong.append(f"the link {link} leads nowhere")
        elif anchor and target in pages and anchor not in pages[target].names:
            wrong.append(f"the link {link}: there is no place {anchor} on that page")
    return wrong


def _fetched(path: Path, page: Page) -> list[str]:
    inside = [match["address"] for style in page.styles for match in IN_STYLE.finditer(style)]
    return [fault for address in [*page.fetched, *inside] for fault in _unreached(path, address)]


def _unreached(path: Path, address: str) -> list[str]:
    """What is wrong with an address that a file has a browser fetch: a line, or none."""
    if address.startswith(("data:", "#")):
        return []
    if OTHER_HOST.match(address):
        return [f"asks another host: {address}"]
    there = (path.parent / unquote(urlsplit(address).path)).exists()
    return [] if there else [f"asks for {address}, which is not there"]


def weight(path: Path) -> int:
    """The bytes of a first visit to a page before its pictures: itself, its styles and programs, and their fonts."""
    files, waiting = {path}, [(path.parent / urlsplit(one).path).resolve() for one in read(path).fetched]
    while waiting:
        file = waiting.pop()
        if file.suffix in WEIGHED and file not in files and file.is_file():
            files.add(file)
            if file.suffix == ".css":
                inner = IN_STYLE.finditer(file.read_text(encoding="utf-8"))
                waiting += [
                    (file.parent / urlsplit(one["address"]).path).resolve() for one in inner if len(one[0]) < 500
                ]
    return sum(file.stat().st_size for file in files)
