"""Reading Markdown and HTML pages, and Python sources."""

from __future__ import annotations

import ast
from html.parser import HTMLParser

from markdown_it import MarkdownIt


def code_in(text: str, language: str) -> str:
    """The one code block of that language, as Markdown sees it."""
    [block] = [token.content for token in MarkdownIt().parse(text) if token.type == "fence" and token.info == language]
    return block


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in a module, late imports too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


class Tags(HTMLParser):
    """Notes the tags of a page, with their attributes."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def parsed(page: str) -> list[tuple[str, dict]]:
    """The tags of an HTML page in order, each with its attributes."""
    parser = Tags()
    parser.feed(page)
    return parser.seen
