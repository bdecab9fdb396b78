"""The public calls of the package: each exists, and none is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import microlab


@pytest.mark.parametrize("name", microlab.__all__)
def test_every_public_call_can_be_called(name):
    assert callable(getattr(microlab, name))
    assert name in dir(microlab)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, microlab; print({'numpy', 'torch', 'skimage', 'typer', 'pandas'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"


def test_no_public_call_shadows_a_subpackage():
    assert not set(microlab.__all__) & {"simulate", "render", "generate", "segment", "measure", "data"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = microlab.magic
