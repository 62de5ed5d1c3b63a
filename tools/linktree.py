"""Build `.types/vaert/`, a folder of links that shows type checkers the installed shape of the package.

The folders `runtime/`, `trainer/` and `export/` install as `vaert.runtime` and so on (see `setup.cfg`), a mapping that
neither mypy nor pyright follows: `mypy_path` in `pyproject.toml` points to the links. The folder is ignored by git.
"""

import configparser
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mapped_packages(root: Path) -> dict[str, Path]:
    """Return the `package_dir` table of `setup.cfg`: dotted package name to its folder under `root`."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    lines = config["options"]["package_dir"].strip().splitlines()
    pairs = (line.split("=", 1) for line in lines)
    return {name.strip(): root / folder.strip() for name, folder in pairs}


def build(root: Path = ROOT) -> Path:
    """Make the tree afresh and return it; every entry of `vaert/` and every mapped package is one link."""
    tree = root / ".types"
    shutil.rmtree(tree, ignore_errors=True)
    packages = mapped_packages(root)
    top = tree / "vaert"
    top.mkdir(parents=True)
    for entry in packages.pop("vaert").iterdir():
        if entry.name != "__pycache__":
            (top / entry.name).symlink_to(entry)
    for name, folder in packages.items():
        (top / name.removeprefix("vaert.")).symlink_to(folder)
    return tree


if __name__ == "__main__":
    build()
