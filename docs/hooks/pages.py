"""The site's pages that lie elsewhere in the repository, and the links to them: each text stands in one place only.

Links in the repository's files lead from file to file. The site keeps its own tree, so that every link is followed to
the file that it means and written anew as the way to that file's page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
"""Single files of the repository, and their pages."""
KEPT = ("benchmarks/*.toml", "benchmarks/results/**/*", "examples/**/*")
"""Files that are pages, or files to look at, of the same names."""
EXAMPLES = "examples/index.md"
FILE = re.compile(r"^( *```\w+) file=(\S+)$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
LANGUAGES = {"sbatch": "bash", "sh": "bash"}


def sources() -> dict[str, str]:
    """Page or file of the site, by the repository's file that it is made from."""
    found = dict(HOMES)
    for pattern in KEPT:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                found[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT).as_posix()
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that lie outside docs/."""
    for source, home in sources().items():
        files.append(File.generated(config, home, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, EXAMPLES, content=examples()))
    return files


def examples() -> str:
    """A page with every file of examples/ on it."""
    parts = ["# Examples", "Run files to copy and change; `abmll config` explains every field."]
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            language = LANGUAGES.get(path.suffix[1:], path.suffix[1:])
            parts.append(f"## {name}\n\n```{language}\n{path.read_text(encoding='utf-8').strip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads every relative link of a page to where the site has what it means, and heads blocks with their file."""
    homes = sources()
    source = next((known for known, home in homes.items() if home == page.file.src_uri), f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        home = homes.get(meant) or (EXAMPLES if (ROOT / meant).is_dir() else meant.removeprefix("docs/"))
        return before + posixpath.relpath(home, here or ".") + after

    return LINK.sub(led, FILE.sub(r'\1 title="\2"', markdown))
