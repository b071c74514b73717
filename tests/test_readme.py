"""The examples of README run as they stand."""

import re
from pathlib import Path

import pytest
from safetensors.torch import save_file

from laconic import zoo

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))
def test_an_example_in_python_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file(zoo.load("zoo:digits_cnn").state_dict(), "digits.safetensors")
    exec(compile(code, "README.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1
