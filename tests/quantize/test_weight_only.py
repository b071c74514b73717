from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.contract import fingerprint
from laconic.data import Split, Splits
from laconic.errors import LaconicError, NotApplicableError
from laconic.numeric.codebook import normal_float
from laconic.program import (
    Mask,
    capture,
    clone,
    dense_state,
    load,
    packed,
    packed_bytes,
    read,
    represent,
    save,
    weights,
    write_back,
)
from laconic.program.cut import cut, shortened, slices
from laconic.program.forms import quantizer_of
from laconic.program.groups import channel_groups
from laconic.program.lower import unsupported
from laconic.program.pack import unpacked
from laconic.program.represent import representations, tensor_names
from laconic.prune import Magnitude
from laconic.quantize import Static, WeightOnly
from laconic.recipe import apply, not_kept
from laconic.runtimes import onnxruntime
from laconic.tune import FineTune
from networks import captured

INTEGERS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
TABLES = {"binary": [-1.0, 1.0], "ternary": [-1.0, 0.0, 1.0], "nf4": normal_float().tolist()}
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
GRANULARITIES = ("tensor", "channel", "group")
SIZE = 4  # divides the channels of every layer below
SCALED = [
    {"format": format, "granularity": granularity, "symmetric": symmetric, "group_size": SIZE}
    for format, granularity, symmetric in product([*INTEGERS, *TABLES], GRANULARITIES, [True, False])
    if symmetric or format in INTEGERS
]
CASES = [*SCALED, *({"format": format} for format in HALVES)]


def words(settings):
    return "-".join(map(str, settings.values())) if isinstance(settings, dict) else None


every_case = pytest.mark.parametrize("settings", CASES, ids=words)


def module():
    """Convolutions, one of them transposed, and a linear layer."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 5)).eval()


EXAMPLE = (torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)),)
NAMES = ("0.weight", "2.weight", "4.weight", "7.weight")
AXES = {"0.weight": 0, "2.weight": 1, "4.weight": 0, "7.weight": 0}


def network():
    return clone(_network())


@cache
def _network():
    return capture(module(), EXAMPLE)


def silent():
    part = Split(np.zeros((4, 4, 6, 6), np.float32), np.zeros(4, np.int64))
    return Context(Splits(part, part, part, part))


def quantized(settings):
    return WeightOnly(**settings)(network(), silent())


def units(weight, axis, settings):
    """The positions in the flat tensor of the entries that share a scale, in the order of the scales."""
    positions = np.moveaxis(np.arange(weight.numel()).reshape(tuple(weight.shape)), axis, 0).reshape(weight.shape[axis], -1)
    match settings["granularity"]:
        case "tensor":
            return [positions.ravel()]
        case "channel":
            return list(positions)
        case "group":
            return [row[start : start + SIZE] for row in positions for start in range(0, len(row), SIZE)]


def level_steps(settings, zero_point):
    """The levels of a grid of step 1."""
    if settings["format"] in TABLES:
        return TABLES[settings["format"]]
    count = 2 ** INTEGERS[settings["format"]]
    return range(-(count // 2 - 1), count // 2) if settings["symmetric"] else [code - zero_point for code in range(count)]


def nearest(values, levels):
    """The nearest of all levels to each value, one by one."""
    return np.array([min(levels, key=lambda level: abs(value - level)) for value in values])


def units_of(settings):
    """The flat weights, the flat views, scales and zero points of every unit of the network."""
    program = quantized(settings)
    for name in NAMES:
        weight, view, form = read(network(), name).detach(), read(program, name).detach(), quantizer_of(representations(program, name))
        scales = form.scale.detach().double().numpy().ravel()
        zero_points = form.zero_point.numpy().ravel() if settings["format"] in INTEGERS else np.zeros(len(scales))
        parts = units(weight, AXES[name], settings)
        assert len(parts) == len(scales)
        for part, scale, zero_point in zip(parts, scales, zero_points, strict=True):
            yield weight.numpy().ravel()[part].astype(float), view.numpy().ravel()[part], scale, zero_point


# Against brute force


@pytest.mark.parametrize("settings", SCALED, ids=words)
def test_the_view_of_every_weight_is_the_nearest_of_all_levels(settings):
    for weight, view, scale, zero_point in units_of(settings):
        levels = [step * scale for step in level_steps(settings, zero_point)]
        best = np.abs(weight - nearest(weight, levels))
        np.testing.assert_allclose(np.abs(weight - view), best, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(view, nearest(view, levels), rtol=1e-6, atol=1e-7)
        assert settings["symmetric"] or zero_point in range(2 ** INTEGERS[settings["format"]])


@pytest.mark.parametrize("format", HALVES)
def test_halves_are_rounded_as_the_type_rounds(format):
    for name in NAMES:
        assert torch.equal(read(quantized({"format": format}), name), read(network(), name).to(HALVES[format]).float())


@pytest.mark.parametrize("settings", [case for case in SCALED if case["format"] in INTEGERS], ids=words)
def test_min_max_covers_all_weights_of_a_unit(settings):
    for weight, _, scale, zero_point in units_of({**settings, "ranges": "min-max"}):
        count = 2 ** INTEGERS[settings["format"]]
        if settings["symmetric"]:
            assert scale == pytest.approx(np.abs(weight).max() / (count // 2 - 1), rel=1e-5)
        else:
            low, high = min(weight.min(), 0), max(weight.max(), 0)
            assert scale == pytest.approx((high - low) / (count - 1), rel=1e-5)
            assert zero_point == pytest.approx(-low / scale, abs=0.5001)


@pytest.mark.parametrize("settings", [case for case in SCALED if case["format"] in INTEGERS], ids=words)
def test_mean_square_is_no_worse_than_min_max_in_any_unit_and_near_the_best_of_a_dense_search(settings):
    shares = np.linspace(0.02, 1.2, 400)
    units = zip(units_of({**settings, "ranges": "min-max"}), units_of(settings), strict=True)
    for number, ((weight, rough, _, _), (_, view, scale, zero_point)) in enumerate(units):
        error = ((weight - view) ** 2).sum()
        assert error <= ((weight - rough) ** 2).sum() * (1 + 1e-5) + 1e-12
        if number % 10 == 0 and settings["granularity"] != "group":  # where a hundredth of the range is not a large part of the error
            steps = np.array(level_steps(settings, zero_point), float)
            errors = [
                ((weight - (steps * share * scale)[np.abs(weight[:, None] - steps * share * scale).argmin(1)]) ** 2).sum()
                for share in shares
            ]
            assert error <= (1.5 if settings["format"] == "int8" else 1.1) * min(errors), "at 8 bits it jumps from scale to scale"


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_binary_scales_are_mean_magnitudes(granularity):
    for weight, _, scale, _ in units_of({"format": "binary", "granularity": granularity, "group_size": SIZE}):
        assert scale == pytest.approx(np.abs(weight).mean(), rel=1e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_nf4_scales_are_largest_magnitudes(granularity):
    for weight, view, scale, _ in units_of({"format": "nf4", "granularity": granularity, "group_size": SIZE}):
        assert scale == pytest.approx(np.abs(weight).max(), rel=1e-6)
        assert np.abs(view).max() == pytest.approx(np.abs(weight).max(), rel=1e-6)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_ternary_scales_leave_the_least_error_of_all_thresholds(granularity):
    for weight, view, _, _ in units_of({"format": "ternary", "granularity": granularity, "group_size": SIZE}):
        ordered = np.sort(np.abs(weight))[::-1]
        least = min((weight**2).sum() - ordered[:count].sum() ** 2 / count for count in range(1, len(weight) + 1))
        assert ((weight - view) ** 2).sum() == pytest.approx(least, rel=1e-4, abs=1e-9)


# Bytes and files

BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2, "binary": 1, "nf4": 4, "float16": 16, "bfloat16": 16}


def bytes_by_hand(entries, channels, settings):
    codes = -(-entries // 5) if settings["format"] == "ternary" else -(-entries * BITS[settings["format"]] // 8)
    if settings["format"] in HALVES:
        return codes
    scales = {"tensor": 1, "channel": channels, "group": entries // SIZE}[settings["granularity"]]
    each = 4 if settings["symmetric"] else 5  # a float32 scale, and a zero point of one byte
    return codes + each * scales + 4 * len(TABLES.get(settings["format"], ()))


@every_case
def test_packed_bytes_are_those_counted_by_hand(settings):
    program, total = quantized(settings), 4 * (8 + 4 + 8 + 5)  # biases
    for name in NAMES:
        weight = read(program, name)
        expected = bytes_by_hand(weight.numel(), weight.shape[AXES[name]], settings)
        assert packed(program, name).bytes == expected
        total += expected
    assert packed_bytes(program) == total


@every_case
def test_unpacked_is_the_dense_view_to_the_bit(settings):
    program = quantized(settings)
    for name in NAMES:
        assert torch.equal(unpacked(packed(program, name)), read(program, name))


@every_case
@pytest.mark.parametrize("pack", [True, False])
def test_a_saved_network_comes_back_to_the_bit(settings, pack, tmp_path):
    program = quantized(settings)
    save(program, tmp_path / "program.safetensors", pack)
    again = load(tmp_path / "program.safetensors")
    assert torch.equal(again(*EXAMPLE), program(*EXAMPLE))
    assert fingerprint(again) == fingerprint(program)
    assert packed_bytes(again) == packed_bytes(program)
    for name in NAMES:
        assert torch.equal(read(again, name), read(program, name))
        assert (representations(again, name)[0].name,) == tuple({form.name for form in representations(program, name)})


@every_case
def test_a_packed_file_holds_the_bytes_that_are_claimed(settings, tmp_path):
    program = quantized(settings)
    sizes = {}
    for pack in (True, False):
        save(program, tmp_path / "program.safetensors", pack)
        content = (tmp_path / "program.safetensors").read_bytes()
        sizes[pack] = len(content) - 8 - int.from_bytes(content[:8], "little")
    assert sizes[True] == packed_bytes(program)
    assert sizes[False] > sum(4 * read(program, name).numel() for name in NAMES)


# With everything else


@every_case
def test_a_cut_network_has_the_cut_views(settings):
    program = quantized(settings)
    keep = {group.name: list(range(0, group.channels, 3)) for group in channel_groups(program)}
    assert keep
    cuts, views = slices(program, keep), {name: read(program, name).detach() for name in NAMES}
    small = cut(clone(program), keep)
    for name in NAMES:
        stored = f"{name.removesuffix('weight')}parametrizations.weight.original"
        assert torch.equal(read(small, name), shortened(views[name], cuts[stored]))
        assert torch.equal(unpacked(packed(small, name)), read(small, name))
    assert packed_bytes(small) < packed_bytes(program)


@every_case
def test_scales_and_weights_get_gradients(settings):
    program = quantized(settings).train()
    program(*EXAMPLE).square().sum().backward()
    for name, parameter in program.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name


@every_case
def test_zeros_of_a_pruned_network_stay_zero_and_cost_no_code(settings, tmp_path):
    program = network()
    Magnitude(sparsity=0.6)(program, silent())
    zeros = {name: read(program, name) == 0 for name in NAMES}
    WeightOnly(**settings)(program, silent())
    program.train()(*EXAMPLE).sum().backward()
    for name in NAMES:
        view = read(program, name)
        assert not view[zeros[name]].any()
        form, entries = packed(program, name), view.numel()
        whole = packed(quantized(settings), name).bytes
        assert form.bytes < whole + entries / 8 + 1
        assert form.arrays["keep"].nbytes == -(-entries // 8)
        assert torch.equal(unpacked(form), view)
    save(program, tmp_path / "program.safetensors", pack=True)
    assert torch.equal(load(tmp_path / "program.safetensors")(*EXAMPLE), program.eval()(*EXAMPLE))


def test_held_entries_do_not_lower_the_binary_scale():
    program, dense = network(), read(network(), "7.weight").detach()
    keep = dense.abs() > 0.05
    represent(program, "7.weight", Mask(keep))
    WeightOnly(format="binary", include="7")(program, silent())
    expected = torch.stack([row[kept].abs().mean() for row, kept in zip(dense, keep, strict=True)])
    torch.testing.assert_close(quantizer_of(representations(program, "7.weight")).scale.detach(), expected)


@every_case
def test_what_a_recipe_says_beforehand_is_what_the_exporter_says_afterwards(settings):
    step = WeightOnly(**settings)
    notes, [form] = unsupported(quantized(settings), onnxruntime.KEEPS), step.forms
    assert {note.rpartition(": ")[2] for note in notes} == {form}
    executed = settings["format"] in (*INTEGERS, "ternary", "binary") and settings["granularity"] != "group"
    assert len(notes) == (len(NAMES) - 1 if executed else len(NAMES)), "linear layers run with integer weights, convolutions do not"
    assert not_kept([step], onnxruntime.KEEPS) == ([] if executed else [f"quantize.WeightOnly: {form}"])
    layers = " of 0, 2, 4" if executed else ""
    assert not_kept([step], onnxruntime.KEEPS, network()) == [f"quantize.WeightOnly: {form}{layers}"]


@pytest.mark.parametrize(
    "settings", [{"format": "int8"}, {"format": "ternary"}, {"format": "nf4", "granularity": "group", "group_size": SIZE}], ids=words
)
def test_what_the_exported_file_does_not_execute_is_dense_in_it(settings, tmp_path):
    program = quantized(settings)
    file = onnxruntime.export(program, EXAMPLE, tmp_path / "file.onnx")
    dense = NAMES if settings["format"] == "nf4" else NAMES[:3]
    assert file.integer_tensors == len(NAMES) - len(dense)
    assert len(file.baked) == len(dense)
    assert (tmp_path / "file.onnx").stat().st_size > sum(4 * read(program, name).numel() for name in dense)


@every_case
def test_weights_are_written_back_dense(settings):
    program = quantized(settings)
    back = write_back(program, module())
    assert torch.equal(back(*EXAMPLE), program(*EXAMPLE))
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in dense_state(program).items())


@pytest.mark.parametrize("format", ["int4", "binary", "nf4", "bfloat16"])
def test_a_tied_embedding_is_quantized_once(format):
    program, example = captured("tied")
    WeightOnly(format=format)(program, silent())
    [name] = set(program.aliases.values())
    assert sum(each.name == name for each in weights(program)) == 1
    assert len(representations(program, name)) == 1
    assert torch.equal(unpacked(packed(program, name)), read(program, name))
    assert program(*example).isfinite().all()


def test_a_network_in_half_precision_is_quantized_in_its_type():
    program = capture(nn.Sequential(nn.Linear(16, 5)).bfloat16(), (torch.randn(2, 16).bfloat16(),))
    WeightOnly(granularity="group", group_size=8)(program, silent())
    assert read(program, "0.weight").dtype == torch.bfloat16
    assert packed(program, "0.weight").bytes == 40 + 4 * 10


# What it works on


def test_excluded_layers_stay_float_and_included_ones_alone_are_quantized():
    program = WeightOnly(exclude=("4", "7"))(network(), silent())
    assert [name for name in tensor_names(program) if representations(program, name)] == ["0.weight", "2.weight"]
    program = WeightOnly(include="7")(network(), silent())
    assert [name for name in tensor_names(program) if representations(program, name)] == ["7.weight"]


def test_layers_are_quantized_to_different_formats_one_after_the_other():
    program = WeightOnly(format="int8", include=("0", "7"))(network(), silent())
    WeightOnly(format="int3", exclude=("0", "7"))(program, silent())
    assert [quantizer_of(representations(program, name)).name for name in NAMES] == ["int8", "int3", "int3", "int8"]


@pytest.mark.parametrize("second", [WeightOnly(), WeightOnly(format="float16"), Static()], ids=str)
def test_what_is_quantized_already_is_refused(second):
    program = quantized({"format": "int8"})
    before = fingerprint(program)
    with pytest.raises(NotApplicableError, match=r"quantized already: 0\.weight \(int8\), "):
        second(program, silent())
    assert fingerprint(program) == before


def test_groups_that_do_not_fit_are_named_with_what_would_before_anything_is_changed():
    program = network()
    before = fingerprint(program)
    message = (
        r"group_size=16 does not divide .* '0\.weight' \(36: 12 or 18\), '2\.weight' \(72: 12 or 18\), '4\.weight' \(36: 12 or 18\); choose"
    )
    with pytest.raises(LaconicError, match=message):
        WeightOnly(granularity="group", group_size=16)(program, silent())
    assert fingerprint(program) == before
    WeightOnly(granularity="group", group_size=16, include="7")(program, silent())


def test_groups_larger_than_a_channel_are_told_the_largest_that_fits():
    with pytest.raises(LaconicError, match=r"'7\.weight' \(128: 128\)"):
        WeightOnly(granularity="group", group_size=512, include="7")(network(), silent())


@pytest.mark.parametrize("format", [*TABLES, *HALVES])
def test_fixed_levels_are_not_asymmetric(format):
    with pytest.raises(ValueError, match=f"{format} has fixed levels"):
        WeightOnly(format=format, symmetric=False)


@pytest.mark.parametrize("settings", [{"format": "int5"}, {"granularity": "row"}, {"group_size": 1}, {"ranges": "percentile"}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        WeightOnly(**settings)


def test_the_journal_has_the_bytes_and_where_they_are_saved():
    context = silent()
    WeightOnly(format="int4", symmetric=False, granularity="group", group_size=4, include="7")(network(), context)
    assert context.notes[0] == "1 weights as asymmetric int4, one scale per group of 4: 2,560 -> 1,120 bytes packed"
    assert "smaller in Laconic's own file" in context.notes[1]
    assert "no faster" in context.notes[1]


# On the digits


@pytest.mark.parametrize(
    ("settings", "lost"),
    [({"format": "int8"}, 0.01), ({"format": "int4"}, 0.04), ({"format": "nf4"}, 0.04), ({"format": "bfloat16"}, 0.01)],
    ids=words,
)
def test_the_accuracy_on_the_digits_stays(settings, lost, program, context):
    done = apply(program, [WeightOnly(**settings)], context)
    [entry] = done.journal
    assert entry.score_after >= entry.score_before - lost
    assert entry.bytes_after < entry.bytes_before * {"int8": 0.35, "int4": 0.25, "nf4": 0.3, "bfloat16": 0.6}[settings["format"]]


@pytest.mark.parametrize("format", ["ternary", "binary"])
def test_training_brings_back_what_few_levels_lost(format, program, context):
    done = apply(program, [WeightOnly(format=format), FineTune(epochs=4, learning_rate=0.01, weight_decay=0.0, autocast="off")], context)
    assert done.journal[1].score_after > max(0.85, done.journal[0].score_after)
    for weight in weights(done.program):
        assert len(weight.value[0].unique()) <= {"ternary": 3, "binary": 2}[format]
