"""What is installed: its metadata, and its stress program."""

import importlib.metadata
import os
import pathlib
import re
import signal
import subprocess
import sys
import sysconfig
import time

import module_ref
import pytest
from module_ref import __main__ as command
from module_ref import stress


@pytest.fixture(scope="module")
def metadata():
    try:
        return importlib.metadata.metadata("module-ref")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("module_ref is not installed")


def python(*arguments, folder):
    """A Python of its own in an empty folder, which sees what is installed and nothing else."""
    return subprocess.run(
        [sys.executable, "-I", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestMetadata:
    def test_versions(self, metadata):
        assert metadata["Version"] == module_ref.__version__
        assert metadata["Requires-Python"] == ">=3.9"
        classifiers = "\n".join(metadata.get_all("Classifier"))
        named = re.findall(r"^Programming Language :: Python :: 3\.(\d+)$", classifiers, re.M)
        named = [int(minor) for minor in named]
        assert named[0] == 9
        assert sys.version_info[1] in named or sys.version_info[1] > named[-1]

    def test_licence(self, metadata):
        assert metadata["License-Expression"] == "MIT OR Apache-2.0"
        files = {path.name for path in importlib.metadata.files("module-ref")}
        assert {"LICENSE-MIT", "LICENSE-APACHE", "py.typed", "_native.pyi"} <= files

    def test_readme(self, metadata):
        assert metadata["Description-Content-Type"].startswith("text/markdown")
        assert readme(metadata).startswith("# module-ref\n")

    def test_the_gil_stays_off(self, tmp_path):
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):
            pytest.skip("this Python has a GIL")
        code = "import sys, module_ref; print(sys._is_gil_enabled())"
        done = python("-W", "error", "-c", code, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr

    def test_it_needs_nothing(self, metadata):
        required = metadata.get_all("Requires-Dist") or []
        assert [one for one in required if "extra ==" not in one] == []


def readme(metadata):
    return metadata["Description"] or metadata.get_payload()


class TestStress:
    """The program that the package carries, as users start it."""

    def run(self, folder, *options):
        return python("-m", "module_ref", "stress", *options, folder=folder)

    def test_it_runs(self, tmp_path):
        done = self.run(tmp_path, "--seconds", "1", "--layer", "both", "--mode", "both")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("violations: 0\n")
        # The plugins that the package carries, with dependencies and replacements.
        assert f"{os.sep}_stress{os.sep}sample.so, calling sample_answer()" in done.stdout
        assert "of a set" in done.stdout

    def test_its_options_are_its_own(self, tmp_path):
        done = self.run(tmp_path, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: module-ref-stress [OPTION]...")
        said = self.run(tmp_path, "--version").stdout
        assert said == f"module-ref-stress {module_ref.__version__}\n"

    def test_its_exit_status_passes_through(self, tmp_path):
        done = self.run(tmp_path, "--seconds", "never")
        assert done.returncode == 2
        assert "expected a number above 0" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_passes_through(self, tmp_path, number):
        argv = [sys.executable, "-I", "-m", "module_ref", "stress", "--seconds", "100"]
        with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            # It has said what it does before it begins.
            for line in process.stdout:
                if "per CPU" in line or "percpu" in line:
                    break
            time.sleep(0.3)
            process.send_signal(number)
            said = process.stdout.read()
            assert process.wait(timeout=60) == 130
        assert "ended early" in said
        assert said.endswith("violations: 0\n")

    def test_signals_that_python_ignores_are_not_ignored_in_it(self, tmp_path):
        script = tmp_path / "program"
        script.write_text("#!/bin/sh\ngrep SigIgn /proc/self/status\n")
        script.chmod(0o755)
        code = (
            f"from module_ref import stress; stress.program = lambda: stress.Path({str(script)!r})"
        )
        done = python("-c", f"{code}; stress.run([])", folder=tmp_path)
        assert done.stdout.startswith("SigIgn:"), done.stderr
        ignored = int(done.stdout.split()[1], 16)
        assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))

    @pytest.mark.parametrize("arguments", [[], ["strain"], ["--seconds", "1"]])
    def test_no_such_command(self, capsys, arguments):
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        assert ended.value.code == 2
        assert "COMMAND" in capsys.readouterr().err

    def test_it_is_listed(self, capsys):
        with pytest.raises(SystemExit):
            command.main(["--help"])
        assert "run the stress program" in capsys.readouterr().out


class TestWithoutStress:
    """A package that was built where there was no C compiler."""

    @pytest.fixture
    def carried(self, tmp_path, monkeypatch):
        monkeypatch.setattr(stress, "_FOLDER", tmp_path)
        return tmp_path

    def test_the_reason_is_said(self, carried, capsys):
        (carried / "absent.txt").write_text("it takes a C compiler\n")
        assert command.main(["stress", "--seconds", "1"]) == 2
        said = capsys.readouterr().err
        assert said == "this module_ref is without its stress program: it takes a C compiler\n"

    def test_not_even_a_reason(self, carried, capsys):
        assert command.main(["stress"]) == 2
        said = capsys.readouterr().err
        assert str(carried / "module-ref-stress") in said
        assert "install a wheel" in said

    def test_it_cannot_be_run(self, carried, capsys):
        program = carried / "module-ref-stress"
        program.write_bytes(b"")
        ignored = signal.getsignal(signal.SIGPIPE)
        assert command.main(["stress"]) == 2
        assert signal.getsignal(signal.SIGPIPE) == ignored
        said = capsys.readouterr().err
        assert "cannot be run: Permission denied" in said
        assert f"chmod +x {pathlib.Path(program)}" in said
