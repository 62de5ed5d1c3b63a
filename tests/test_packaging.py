"""What is installed, what imports what, and how large things may grow."""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaert
from vaert import errors

MAPPED = {"vaert": "vaert", "vaert.runtime": "runtime", "vaert.trainer": "trainer", "vaert.export": "export"}
ENGINES = {"onnxruntime", "tensorrt", "pycuda"}

# What each place may never import (the table of the design); a dotted name also bans what lies below it.
NEVER = {
    "vaert": {"torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "pycuda"},
    "runtime": {"torch", "onnx", "onnxscript", "vaert.trainer", "vaert.export"},
    "trainer": ENGINES | {"vaert.runtime", "vaert.export"},
    "export": {"vaert.cli", "vaert.commands"},
}


def options(root: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    return config


def sources(root: Path, *places: str) -> Iterator[Path]:
    for place in places:
        yield from sorted((root / place).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield every imported dotted name, in functions too; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module, node
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)


def is_in(name: str, banned: set[str]) -> bool:
    return any(name == ban or name.startswith(f"{ban}.") for ban in banned)


def test_setup_cfg_lists_exactly_the_packages_of_the_tree(root: Path) -> None:
    config = options(root)["options"]
    listed = config["packages"].split()
    found = {
        ".".join([package, *file.parent.relative_to(root / folder).parts])
        for package, folder in MAPPED.items()
        for file in (root / folder).rglob("__init__.py")
    }
    assert set(listed) == found
    assert listed == sorted(listed)


def test_every_source_file_lies_in_a_package(root: Path) -> None:
    lonely = [str(file) for file in sources(root, *MAPPED.values()) if not (file.parent / "__init__.py").exists()]
    assert lonely == []


def test_setup_cfg_maps_the_folders_and_holds_nothing_else(root: Path) -> None:
    config = options(root)
    pairs = (line.split("=") for line in config["options"]["package_dir"].strip().splitlines())
    assert {name.strip(): folder.strip() for name, folder in pairs} == MAPPED
    assert set(config.sections()) == {"options", "options.package_data"}
    assert set(config["options"]) == {"package_dir", "packages"}


def test_package_data_covers_every_file_that_is_not_source(root: Path) -> None:
    listed = options(root)["options.package_data"]
    folders = {"vaert": "vaert", **MAPPED}
    covered = {
        file
        for package, patterns in listed.items()
        for pattern in patterns.split()
        for file in (root / folders[package]).glob(pattern)
    }
    data = {
        file
        for folder in MAPPED.values()
        for file in (root / folder).rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert data - covered == set()
    assert root / "vaert" / "py.typed" in covered


def test_version_is_the_same_everywhere(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert vaert.__version__ == project["version"]
    assert f"## {vaert.__version__}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_explained(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = {re.split(r"[^\w-]", item)[0] for group in [project["dependencies"], *extras] for item in group} - {
        "vaert"
    }
    explained = set(
        re.findall(r"^\| `([\w-]+)`", (root / "docs/dependencies.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert explained == wanted


@pytest.mark.parametrize("place", NEVER)
def test_imports_point_in_one_direction(root: Path, place: str) -> None:
    wrong = []
    for file in sources(root, place):
        banned = set(NEVER[place])
        if place == "vaert" and file.relative_to(root / "vaert").parts[0] not in {"cli.py", "commands", "__main__.py"}:
            banned |= {"click"}
        if place == "runtime" and file.relative_to(root).parts[1] != "backends":
            banned |= ENGINES
        tree = ast.parse(file.read_text(encoding="utf-8"))
        wrong += [f"{file}:{getattr(node, 'lineno', 0)} {name}" for name, node in imports(tree) if is_in(name, banned)]
    assert wrong == []


def test_the_core_reaches_runtime_trainer_and_export_only_through_its_faces(root: Path) -> None:
    faces = {
        "__init__.py",
        "commands",
        "evaluate.py",
        "evaluate_digits.py",
        "evaluate_restorer.py",
        "evaluate_upscaler.py",
    }
    outer = {"vaert.runtime", "vaert.trainer", "vaert.export"}
    wrong = [
        f"{file} {name}"
        for file in sources(root, "vaert")
        if file.relative_to(root / "vaert").parts[0] not in faces
        for name, _ in imports(ast.parse(file.read_text(encoding="utf-8")))
        if is_in(name, outer)
    ]
    assert wrong == []


def test_modules_and_functions_stay_small(root: Path) -> None:
    large = []
    for file in sources(root, *MAPPED.values(), "tools", "benchmarks"):
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            large.append(f"{file}: {text.count(chr(10))} lines, at most 400")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    large.append(f"{file}:{node.lineno} {node.name}: {length} lines, at most 60")
    assert large == []


def test_public_names_are_sorted_and_all_can_be_fetched() -> None:
    assert vaert.__all__ == sorted(vaert.__all__)
    for name in vaert.__all__:
        assert getattr(vaert, name) is not None
    assert set(vaert.__all__) <= set(dir(vaert))


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == {name for name in vaert.__all__ if name.endswith("Error")}


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'vaert' has no attribute 'Kodak'"):
        vaert.Kodak  # noqa: B018


BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Block())
"""


def run_python(code: str, *, blocked: set[str]) -> subprocess.CompletedProcess[str]:
    script = BLOCK.format(blocked=sorted(blocked)) + code
    return subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)


def test_runtime_and_command_line_work_without_torch_and_onnx() -> None:
    done = run_python(
        "import vaert, vaert.runtime, vaert.runtime.codec\n"
        "from vaert.cli import main\n"
        "assert vaert.Codec\n"
        "sys.exit(main(['--help']))",
        blocked={"torch", "onnx", "onnxscript", "tensorrt", "pycuda", "PIL", "scipy", "matplotlib"},
    )
    assert done.returncode == 0, done.stderr
    assert "compress" in done.stdout


def test_import_vaert_and_help_load_nothing_heavy() -> None:
    done = run_python(
        "import vaert\nfrom vaert.cli import main\nsys.exit(main(['--help']))",
        blocked={"numpy", "cv2", "constriction", "onnxruntime", "torch", "onnx"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "blocked", "extra"),
    [
        (["train", "codec", "--profile", "fast", "--data", ".", "--out", "never"], "torch", "train"),
        (["export", "fast"], "torch", "train"),
        (["export", "fast"], "onnx", "train"),
        (["evaluate", "fast", "--images", ".", "--plot", "never.png"], "matplotlib", "eval"),
    ],
)
def test_a_missing_extra_is_named(command: list[str], blocked: str, extra: str) -> None:
    done = run_python(f"from vaert.cli import main\nsys.exit(main({command!r}))", blocked={blocked})
    assert done.returncode == 1
    assert done.stderr.startswith("vaert: error: ")
    assert f"pip install 'vaert[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1
