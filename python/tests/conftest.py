"""Fixtures of several test files."""

import shutil
import subprocess

import pytest
from module_ref import Host, ModuleRef


@pytest.fixture(params=[False, True], ids=["atomic", "per_cpu"])
def ref(request):
    return ModuleRef(per_cpu=request.param)


@pytest.fixture
def host():
    """A host that has to be empty again after the test."""
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """A function that compiles a shared object when it is first asked for, and gives its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, as cc")
    directory = tmp_path_factory.mktemp("plugins")

    def build(name, source, *flags):
        path = directory / f"{name}.so"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            command = [compiler, "-shared", "-fPIC", "-pthread", "-w", *flags, "-o", path]
            command += ["-x", "c", "-"]
            subprocess.run(command, input=source, text=True, check=True, timeout=60)
        return path

    return build
