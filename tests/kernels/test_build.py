"""The build uses what tools there are, says what is missing, and makes a wheel for any Python from 3.12 on."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from build import ABI, LEVELS, LIBRARIES, PACKAGE, SOURCES, SUFFIX, Missing, Torch, build, tool

from tests.kernels.conftest import KERNELS


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes its arguments where the result should be; the log holds one line a call."""
    log = tmp_path / "commands.txt"
    script = tmp_path / "compiler"
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && echo compiled > "$2"; shift; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("NVCC", str(script))
    return log


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Missing, match="none of c\\+\\+, g\\+\\+ is on PATH, and CXX is not set"):
        tool("CXX", "c++", "g++")
    monkeypatch.setenv("CXX", "ccache g++")
    assert tool("CXX", "c++") == ["ccache", "g++"]


def test_without_tools_nothing_is_built_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("NVCC", raising=False)
    report = build(tmp_path)
    assert len(report) == len(LIBRARIES)
    assert all("not built, " in line and line.endswith("the PyTorch references serve") for line in report)
    assert list(tmp_path.iterdir()) == []


def test_every_level_is_compiled_against_the_stable_abi(fake_compiler: Path, tmp_path: Path) -> None:
    assert build(tmp_path, stems=("_cpu",)) == [f"_cpu{SUFFIX}: built"]
    commands = fake_compiler.read_text().splitlines()
    assert all(ABI in command for command in commands[:-1])
    for level, flags in LEVELS.items():
        (command,) = (command for command in commands if f"-DNMM_LEVEL={level} " in command)
        assert all(flag in command for flag in flags) and "cpu_rows.cpp" in command
    assert "-march" not in "".join(command for command in commands if "cpu_rows" not in command)
    assert "-shared" in commands[-1] and "-ltorch_cpu" in commands[-1]


def test_what_is_up_to_date_is_left_alone(fake_compiler: Path, tmp_path: Path) -> None:
    build(tmp_path, stems=("_cpu",))
    calls = fake_compiler.read_text()
    assert build(tmp_path, stems=("_cpu",)) == [f"_cpu{SUFFIX}: up to date"]
    assert fake_compiler.read_text() == calls
    os.utime(tmp_path / f"_cpu{SUFFIX}", (0, 0))  # older than the sources
    assert build(tmp_path, stems=("_cpu",)) == [f"_cpu{SUFFIX}: built"]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'no such header' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(SystemExit, match=r"(?s)broken .*failed with 3:\nno such header"):
        build(tmp_path, stems=("_cpu",))


def test_the_installed_torch_is_found_by_its_folder() -> None:
    found = Torch.find()
    assert (found.folder / "version.py").exists()
    assert found.link_flags("torch_cpu")[1] == "-ltorch_cpu"


@pytest.mark.parametrize(
    ("text", "version"), [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda: str | None = None", None)]
)
def test_the_cuda_of_a_torch_is_read_from_its_version_file(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.14.1'\n{text}\nhip: Optional[str] = None\n")
    assert Torch(tmp_path).cuda == version


def test_the_wheel_holds_the_package_and_its_libraries(fake_compiler: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(KERNELS, source, ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    ran = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("nmm_kernels-0.1.0-cp312-abi3-")
    names = zipfile.ZipFile(wheel).namelist()
    package = [path.relative_to(KERNELS).as_posix() for path in PACKAGE.rglob("*.py")]
    assert {f"nmm_kernels/_cpu{SUFFIX}", *package} <= set(names)
    assert not [name for name in names if name.startswith(("build", "benchmarks", "setup"))]


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
def test_no_code_of_a_high_level_can_replace_that_of_a_low_one(tmp_path: Path) -> None:
    # Without inlining, every function that the linker could share between the levels shows up as a weak symbol.
    made = tmp_path / "rows.o"
    flags = ["-std=c++20", "-O0", "-Wno-psabi", *LEVELS["v4_bf16"], "-DNMM_LEVEL=v4_bf16"]
    subprocess.run(["g++", *flags, "-c", str(SOURCES / "cpu_rows.cpp"), "-o", str(made)], check=True)
    symbols = subprocess.run(["nm", str(made)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in symbols if line.split()[-2] in "WVu"] == []
    assert any(line.endswith("tableE") for line in symbols)
