from dataclasses import FrozenInstanceError, replace
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from laconic.distill import Response
from laconic.prune import Magnitude
from laconic.step import settings, step, step_name
from laconic.train import Training
from laconic.tune import FineTune


@step
class Shift:
    """Do nothing much."""

    amount: Annotated[float, Field(gt=0)] = 1.0
    layers: tuple[str, ...] = ()
    trains: ClassVar[bool] = True

    def __call__(self, program, context):
        return program


def test_a_steps_name_is_its_family_and_class():
    assert step_name(Magnitude) == step_name(Magnitude()) == "prune.Magnitude"
    assert step_name(FineTune()) == "tune.FineTune"


def test_the_name_of_a_users_step_says_where_it_comes_from():
    assert step_name(Shift()) == f"{__name__}.Shift"


def test_settings_are_plain_data_without_class_variables():
    assert settings(Shift(amount=2, layers=("a", "b"))) == {"amount": 2.0, "layers": ["a", "b"]}
    assert type(settings(Shift(amount=2))["amount"]) is float


def test_a_function_has_no_settings_but_is_told_apart():
    def first(program, context): ...
    def second(program, context): ...

    assert settings(first) != settings(second)


def test_a_step_is_frozen_comparable_and_hashable():
    assert Shift(amount=2) == Shift(amount=2.0)
    assert len({Shift(amount=2), Shift(amount=2.0), Shift()}) == 2
    with pytest.raises(FrozenInstanceError):
        Shift().amount = 3


@pytest.mark.parametrize("amount", [0, -1, float("inf"), float("nan"), "much", None])
def test_a_value_out_of_range_is_refused_when_the_step_is_made(amount):
    with pytest.raises(ValidationError, match="amount"):
        Shift(amount=amount)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValidationError, match="size"):
        Shift(size=1)


def test_replace_validates_too():
    assert replace(Shift(), amount=3).amount == 3
    with pytest.raises(ValidationError, match="amount"):
        replace(Shift(), amount=-3)


def test_a_steps_json_schema_has_its_limits():
    amount = TypeAdapter(Shift).json_schema()["properties"]["amount"]
    assert amount == {"default": 1.0, "exclusiveMinimum": 0, "title": "Amount", "type": "number"}


def test_steps_that_train_have_the_settings_of_training():
    for cls in (FineTune, Response):
        assert set(TypeAdapter(Training).json_schema()["properties"]) <= set(settings(cls()))
        assert cls.trains
