"""Set-up finds a Python that works, says what to do when none does, and is done once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_python.sh")
COMMANDS = (
    *("bash", "cat", "chmod", "cp", "dirname", "find", "flock", "grep", "head", "mkdir", "mv", "paste", "rm"),
    *("sed", "sleep", "sort", "tail", "tee", "touch", "tr"),
)
OLD = "sys.version_info = (3, 11, 7)"
WITHOUT_VENV = "sys.modules['ensurepip'] = None"


class Machine:
    """A repository folder on a machine that has the usual commands and only the Pythons a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.calls = folder / "calls"
        self.commands = folder / "bin"
        (self.repository / "tools").mkdir(parents=True)
        self.commands.mkdir()
        for name in ("tools/setup_env.sh", "setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, self.repository / name)
        for name in COMMANDS:
            if found := shutil.which(name):
                (self.commands / name).symlink_to(found)

    @property
    def venv(self) -> Path:
        return self.repository / ".venv"

    def add_python(self, name: str, prelude: str = "") -> Path:
        """A fake interpreter of its own folder, on PATH under a plain name or at a path below the machine."""
        home = self.folder / "pythons" / name.replace("/", "_")
        home.mkdir(parents=True)
        shutil.copy(FAKE, home / "python")
        (home / "prelude").write_text(prelude)
        (home / "base").write_text(str(home / "python"))
        place = self.folder / name if "/" in name else self.commands / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'#!/usr/bin/env bash\nexec "{home}/python" "$@"\n')
        place.chmod(0o755)
        return home / "python"

    def add_command(self, name: str, text: str) -> None:
        """An executable on PATH."""
        (self.commands / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.commands / name).chmod(0o755)

    def start(self, script: str = "source tools/setup_env.sh; echo reached", **env: str) -> "subprocess.Popen[str]":
        """A bash with strict options that sources the set-up, stderr joined to stdout."""
        own = {"PATH": str(self.commands), "HOME": str(self.folder), "FAKE_REAL": sys.executable}
        return subprocess.Popen(
            [str(self.commands / "bash"), "-c", f"set -euo pipefail; {script}"],
            cwd=self.repository,
            env={**own, "FAKE_CALLS": str(self.calls), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str = "source tools/setup_env.sh; echo reached", **env: str) -> tuple[int, str]:
        """(exit status, output) of ``start``."""
        process = self.start(script, **env)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def installs(self) -> list[str]:
        """Arguments of every pip install so far."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith("install")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("prelude", "reason"), [(OLD, "is Python 3.11.7"), (WITHOUT_VENV, "without its venv part"), ("raise 1", "not run")]
)
def test_only_an_unsuitable_python_gives_one_clear_message(machine: Machine, prelude: str, reason: str) -> None:
    machine.add_python("python3", prelude)
    status, output = machine.run()
    assert status == 1
    assert "needs Python 3.12 or newer" in output
    assert any("python3 " in line and reason in line for line in output.splitlines())
    assert "python3.13 is not there" in output
    assert "PYTHON=/path/to/python3.12" in output
    assert "reached" not in output
    assert not machine.venv.exists()


def test_a_shim_that_exists_but_fails_is_passed_over(machine: Machine) -> None:
    machine.add_command("python3.13", "echo 'shim: python3.13: command not found' >&2; exit 127")
    machine.add_python("python3.12", OLD)
    good = machine.add_python("python3")
    status, output = machine.run()
    assert (status, output.splitlines()[-1]) == (0, "reached")
    assert f"making .venv with {good}" in output


def test_the_failing_shim_is_named_when_nothing_else_is_there(machine: Machine) -> None:
    machine.add_command("python3.13", "echo 'shim: python3.13: command not found' >&2; exit 127")
    status, output = machine.run()
    assert status == 1
    assert "python3.13 is there but does not run: shim: python3.13: command not found" in output


def test_python_variable_comes_first_and_falls_back_with_a_note(machine: Machine) -> None:
    asked = machine.add_python("opt/python")
    machine.add_python("python3.13")
    assert f"making .venv with {asked}" in machine.run(PYTHON=str(machine.folder / "opt/python"))[1]
    shutil.rmtree(machine.venv)
    output = machine.run(PYTHON="python9")[1]
    assert "PYTHON=python9 is not there; looking for another" in output
    assert "reached" in output


def test_pyenv_folder_offers_the_tested_series_first(machine: Machine) -> None:
    for version in ("3.13.0", "3.12.1", "3.12.10", "3.11.7"):
        machine.add_python(f".pyenv/versions/{version}/bin/python", OLD if version == "3.11.7" else "")
    assert "pyenv_versions_3.12.10_bin_python" in machine.run()[1]


def test_uv_is_the_last_resort(machine: Machine) -> None:
    python = machine.add_python("uv-pythons/python")
    machine.add_python("python3", OLD)
    machine.add_command("uv", f'[[ "$*" == "python find"* ]] && echo "{machine.folder}/uv-pythons/python"')
    assert f"making .venv with {python}" in machine.run()[1]


def test_uv_fetches_a_python_when_it_has_none(machine: Machine) -> None:
    machine.add_python("fetched/python")
    where = machine.folder / "fetched"
    machine.add_command(
        "uv",
        f'case "$*" in\n"python install 3.12") touch "{where}/done" ;;\n'
        f'"python find"*) [[ -e "{where}/done" ]] && echo "{where}/python" ;;\nesac',
    )
    status, output = machine.run()
    assert status == 0
    assert "uv fetches Python 3.12" in output


def seconds_of_nothing(machine: Machine) -> float:
    """How long one set-up takes that has nothing to do and says nothing."""
    began = time.perf_counter()
    assert machine.run() == (0, "reached\n")
    return time.perf_counter() - began


def test_second_run_does_nothing_in_under_a_second(machine: Machine) -> None:
    machine.add_python("python3")
    assert machine.run()[0] == 0
    assert min(seconds_of_nothing(machine) for _ in range(5)) < 1
    assert len(machine.installs()) == 1


def test_changed_requirements_install_again_into_the_same_environment(machine: Machine) -> None:
    machine.add_python("python3")
    machine.run()
    (machine.venv / "kept").touch()
    with (machine.repository / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    assert machine.run()[0] == 0
    assert len(machine.installs()) == 2
    assert (machine.venv / "kept").exists()


def test_extras_add_up_and_do_not_undo_one_another(machine: Machine) -> None:
    machine.add_python("python3")
    for extras in ("examples", "dev", "examples", "dev,examples"):
        assert machine.run(NMM_EXTRAS=extras)[0] == 0
    assert [line.rpartition("[")[2] for line in machine.installs()] == ["examples]", "dev,examples]"]
    assert f"--constraint {machine.repository}/constraints.txt" in machine.installs()[0]


def test_an_environment_without_a_stamp_is_adopted(machine: Machine) -> None:
    machine.add_python("python3")
    machine.run()
    (machine.venv / ".nmm_setup").unlink()
    (machine.venv / "kept").touch()
    status, output = machine.run()
    assert status == 0
    assert "making .venv" not in output
    assert len(machine.installs()) == 2
    assert (machine.venv / "kept").exists()


def test_a_killed_install_is_taken_up_again(machine: Machine) -> None:
    machine.add_python("python3")
    assert machine.run(FAKE_PIP_STATUS="137")[0] == 1
    lib = machine.venv / "lib"
    records = {"numpy": "numpy-1.dist-info/METADATA,,\n", "rich": "rich/missing.py,,\n", "torch": None}
    for name, record in records.items():
        package = lib / f"{name}-1.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Name: {name}\n")
        if record:
            (package / "RECORD").write_text(record)
    (lib / "~orch").mkdir()
    status, output = machine.run()
    assert status == 0
    assert "installed again: torch-1.dist-info" in output
    assert "installed again: rich-1.dist-info" in output
    assert [path.name for path in lib.iterdir()] == ["numpy-1.dist-info"]
    assert len(machine.installs()) == 2


@pytest.mark.parametrize("missing", ["bin/pip", "bin/python"])
def test_a_half_made_environment_is_made_again(machine: Machine, missing: str) -> None:
    machine.add_python("python3")
    machine.run()
    (machine.venv / missing).unlink()
    status, output = machine.run()
    assert (status, output.splitlines()[-1]) == (0, "reached")
    assert ".venv is made again" in output
    assert (machine.venv / missing).exists()


def test_a_moved_folder_gets_a_new_environment(machine: Machine) -> None:
    machine.add_python("python3")
    machine.run()
    machine.repository = machine.repository.rename(machine.folder / "moved")
    assert "it was made in another folder" in machine.run()[1]
    assert machine.run() == (0, "reached\n")


def test_python_variable_that_asks_for_another_python_is_obeyed(machine: Machine) -> None:
    machine.add_python("python3")
    machine.run()
    asked = machine.add_python("opt/python")
    assert f"PYTHON asks for {asked}" in machine.run(PYTHON=str(machine.folder / "opt/python"))[1]
    assert machine.run(PYTHON=str(machine.folder / "opt/python")) == (0, "reached\n")


def test_a_folder_of_another_kind_is_left_alone(machine: Machine) -> None:
    machine.add_python("python3")
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").write_text("mine")
    status, output = machine.run()
    assert status == 1
    assert "is no virtual environment" in output
    assert (machine.venv / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        (
            "WARNING: Retrying (Retry(total=4, connect=None)) after ...\\nERROR: No matching x\\n",
            "needs the network once",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device\\n", "the disk is full"),
        ("ERROR: Cannot install a and b\\n", "pip could not install the packages"),
    ],
)
def test_a_failing_pip_stops_the_caller_with_its_cause(machine: Machine, printed: str, message: str) -> None:
    machine.add_python("python3")
    status, output = machine.run(FAKE_PIP_OUTPUT=printed, FAKE_PIP_STATUS="1")
    assert status == 1
    assert message in output
    assert "ERROR: " in output
    assert "reached" not in output
    assert machine.run()[0] == 0


def test_a_real_environment_without_any_index_fails_clearly(machine: Machine) -> None:
    (machine.repository / "megatron_nmm").mkdir()
    status, output = machine.run(PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    assert status == 1
    assert "pip could not install the packages" in output
    assert "ERROR: No matching distribution found for setuptools" in output
    assert (machine.venv / "bin" / "pip").exists()


def test_two_set_ups_in_one_folder_install_once(machine: Machine) -> None:
    if not shutil.which("flock"):
        pytest.skip("this operating system has no flock command")
    machine.add_python("python3")
    first = machine.start(FAKE_PIP_SECONDS="0.6")
    while not machine.installs():
        time.sleep(0.01)
    status, output = machine.run()
    assert first.wait(timeout=60) == 0
    first.communicate()
    assert status == 0
    assert "another set-up is running" in output
    assert len(machine.installs()) == 1


def test_sourcing_changes_nothing_but_the_path(machine: Machine) -> None:
    machine.add_python("python3")
    script = """
        state() { set +o; shopt; trap; declare -F; compgen -v | grep -vE '^(BASH|FUNC|PIPE|VIRTUAL_ENV|_$)'; }
        before='' after=''
        before="$(state)"
        set -- own
        source tools/setup_env.sh
        after="$(state)"
        [[ "$after" == "$before" ]] && echo same
        echo "$1 $VIRTUAL_ENV $PATH"
    """
    status, output = machine.run(script)
    assert status == 0
    assert output.splitlines()[-2:] == ["same", f"own {machine.venv} {machine.venv}/bin:{machine.commands}"]
