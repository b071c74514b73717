from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError, NotApplicableError
from laconic.pack.file import pack_exactly
from laconic.program import Mask, clone, dense_state, read, represent, weights
from laconic.program.forms import quantizer_of
from laconic.program.represent import representations
from laconic.prune import Magnitude
from laconic.quantize import EntropyPenalized, WeightOnly
from laconic.train import top1

QUICK = {"batch": 64, "learning_rate": 0.003, "autocast": "off"}


def packed_bytes(program):
    """What the weights take in a `.lac` file."""
    rows = pack_exactly({weight.name: weight.value.numpy() for weight in weights(program)}, {}).rows
    return sum(row.bytes for row in rows)


def test_a_price_on_bits_makes_the_file_smaller_at_little_loss(program, context):
    before, float_bytes = top1(program, context.splits.test), packed_bytes(program)
    cheap = EntropyPenalized(price=1e-7, epochs=5, **QUICK)(clone(program), context)
    dear = EntropyPenalized(price=3e-4, epochs=5, **QUICK)(clone(program), context)
    assert packed_bytes(dear) < 0.7 * packed_bytes(cheap) < 0.2 * float_bytes
    assert top1(dear, context.splits.test) > before - 0.08


def test_weights_and_biases_are_multiples_of_powers_of_two(program, context):
    EntropyPenalized(epochs=1, **QUICK)(program, context)
    chosen = weights(program)
    biases = [name for name in dense_state(program) if name.endswith("bias") and "norm" not in name and "bn" not in name]
    for weight in chosen:
        grid = quantizer_of(representations(program, weight.name))
        step = grid.step.item()
        assert step == 2.0 ** round(torch.tensor(step).log2().item())
        assert torch.equal(weight.value, (weight.value / step).round() * step)
    steps = [quantizer_of(representations(program, weight.name)).step.item() for weight in chosen]
    head = read(program, "head.bias").detach()
    assert "head.bias" in biases
    assert any(torch.equal(head, (head / step).round() * step) for step in steps)
    assert not representations(program, "head.bias")


def test_the_teacher_is_listened_to(program, context):
    """With labels of no meaning, only the float network's answers keep the accuracy."""
    split = context.splits.train
    scrambled = replace(split, labels=split.labels[torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).numpy()])
    context = replace(context, splits=replace(context.splits, train=scrambled), teacher=clone(program))
    taught = EntropyPenalized(alpha=1.0, epochs=3, **QUICK)(program, context)
    assert top1(taught, context.splits.test) > 0.8


def test_what_was_pruned_stays_zero(program, context):
    Magnitude(sparsity=0.5)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    EntropyPenalized(epochs=1, **QUICK)(program, context)
    assert all(not weight.value[zeros[weight.name]].any() for weight in weights(program))


def test_norms_become_gains_and_offsets_of_few_levels(program, context):
    """The file is smaller by their statistics and most bits of the others, and scores what the network with its norms does."""
    kept = EntropyPenalized(epochs=2, **QUICK)(clone(program), context)
    folded = EntropyPenalized(epochs=2, norms="fold", **QUICK)(program, context)
    norms = [name for name in dense_state(folded) if "bn" in name or "norm" in name]
    assert norms
    assert all(torch.equal(read(folded, name), torch.zeros_like(read(folded, name))) for name in norms if name.endswith("running_mean"))
    for name in norms:
        if name.endswith((".weight", ".bias")):
            assert len(read(folded, name).unique()) <= 8 * 32
            assert torch.equal(read(folded, name) * 2**16, (read(folded, name) * 2**16).round())
    sizes = [len(pack_exactly({name: value.numpy() for name, value in dense_state(each).items()}, {}).data) for each in (folded, kept)]
    assert sizes[0] < sizes[1]
    assert top1(folded, context.splits.test) == pytest.approx(top1(kept, context.splits.test), abs=0.02)


def test_gains_beside_a_silent_channel_keep_their_precision(program, context):
    """The gain of a channel without weights would be 300 times as large as the others, and they nothing in its levels."""
    name = next(weight.name for weight in weights(program) if weight.kind == "conv2d")
    keep = torch.ones_like(read(program, name), dtype=torch.bool)
    keep[:3] = False
    represent(program, name, Mask(keep))
    norm = name.removesuffix(".weight") + "_norm"
    program.get_submodule(norm).running_mean[:3] = program.get_submodule(norm).running_var[:3] = 0.0  # as after long training
    kept = EntropyPenalized(epochs=2, **QUICK)(clone(program), context)
    folded = EntropyPenalized(epochs=2, norms="fold", **QUICK)(program, context)
    gains = read(folded, f"{norm}.weight").detach()
    assert not gains[:3].any()
    assert gains[3:].all()
    assert top1(folded, context.splits.test) == pytest.approx(top1(kept, context.splits.test), abs=0.02)


def test_bad_networks_are_refused(program, context):
    with torch.no_grad():
        read(program, "head.weight").zero_()
    with pytest.raises(LaconicError, match=r"'head.weight' has a standard deviation of 0: .* exclude it"):
        EntropyPenalized()(clone(program), context)
    WeightOnly(format="int8", exclude=["head"])(program, context)
    with pytest.raises(NotApplicableError, match="quantized already"):
        EntropyPenalized()(program, context)


def test_the_journal_tells_what_each_weight_became(program, context):
    EntropyPenalized(epochs=1, **QUICK)(program, context)
    assert any(note.startswith("stem.weight: ") and "bits each" in note for note in context.notes)
