"""Builds the shim (see substrates/linux/shim.c) with the package; everything else about it is in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

PLACE = Path("portlayer", "substrates", "linux")
SOURCE = Path("src", PLACE, "shim.c")
FLAGS = ("-std=c11", "-Os", "-static", "-Wall", "-Wextra", "-Werror", "-s")


class BuildShim(Command):
    """Into the tree itself for an editable installation. Source: setuptools, `SubCommand`."""

    user_options = []
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        target = self._target()
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        try:
            subprocess.run([*compiler, *FLAGS, "-o", str(target), str(SOURCE)], check=True)
        except FileNotFoundError:
            raise SystemExit(
                f"The shim needs a C compiler, and there is no {compiler[0]}: apt install gcc libc6-dev"
            ) from None

    def get_source_files(self) -> list[str]:
        return [str(SOURCE)]

    def get_outputs(self) -> list[str]:
        return [str(self._target())]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _target(self) -> Path:
        return Path("src" if self.editable_mode else str(self.build_lib), PLACE, "portlayer-shim")


class Build(build):
    sub_commands = [*build.sub_commands, ("build_shim", None)]


class Binary(Distribution):
    """So that a wheel says which machines it is for."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build": Build, "build_shim": BuildShim}, distclass=Binary)
