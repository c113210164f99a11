"""Reading Markdown pages and Python sources."""

from __future__ import annotations

import ast

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
