"""Scored against the network's own outputs: no labels are needed, and a cosine stands where accuracy does."""

import json

import pytest

from laconic.job import Origin, prepare
from laconic.train import usual_score
from test_cli import run, user_file

ENCODER = """

class Unit(nn.Module):
    def forward(self, inputs):
        return nn.functional.normalize(inputs, dim=1)


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2), Unit())  # fewer outputs than there are classes
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = user_file(tmp_path_factory.mktemp("against"))
    path.write_text(path.read_text() + ENCODER)
    return path


def compress(mine, recipe, *options):
    (mine.parent / "recipe.yaml").write_text(recipe)
    arguments = ("--recipe", mine.parent / "recipe.yaml", "--model", f"{mine}:encoder", "--data", f"{mine}:data")
    return run("compress", *arguments, "--out", mine.parent / "out", *options)


def test_the_network_itself_scores_1(mine):
    job = prepare(Origin(f"{mine}:encoder", f"{mine}:data", against="network"), 1)
    assert usual_score(job.program, job.splits.validation) == pytest.approx(1, abs=1e-6)
    assert job.splits.train is None


def test_the_receipt_holds_the_cosine_and_verify_measures_it_again(mine, capfd):
    assert compress(mine, "- quantize.WeightOnly: {format: int4}", "--against", "network") == 0
    receipt = json.loads((mine.parent / "out" / "receipt.json").read_text())
    assert receipt["before"]["accuracy"] == pytest.approx(1, abs=1e-6)
    assert 0.8 < receipt["after"]["lowest_cosine"] < receipt["after"]["accuracy"] < 1
    assert receipt["drop_points"] == pytest.approx(100 * (receipt["before"]["accuracy"] - receipt["after"]["accuracy"]))
    assert receipt["journal"][0]["score_after"] == pytest.approx(receipt["after"]["accuracy"], abs=0.02)
    capfd.readouterr()
    run("verify", mine.parent / "out", "--json")
    checks = {check["name"]: check["ok"] for check in json.loads(capfd.readouterr().out)["checks"]}
    assert checks["after.lowest_cosine"]
    assert checks["drop_points"]


def test_against_labels_the_same_network_is_refused_for_it_has_too_few_outputs(mine, capfd):
    assert compress(mine, "- quantize.WeightOnly: {format: int4}") == 2
    assert "the network has 2 outputs" in capfd.readouterr().err


def test_a_recipe_that_trains_is_refused(mine, capfd):
    assert compress(mine, "- tune.FineTune:", "--against", "network") == 2
    assert "outputs are scored against the network's own" in capfd.readouterr().err
