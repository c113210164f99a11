"""What the wheel holds beside the folders that pyproject.toml names; hatchling calls this while it builds one."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SingleFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Files of the checkout's root. None of them goes into an editable install, which finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"] |= {
                "run.py": "plainloop/run.py",
                "pyproject.toml": "plainloop/pyproject.toml",  # `env` lists the extras, errors say what to install
                "plainloop.pth": "plainloop.pth",
            }
