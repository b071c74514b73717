import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import laconic
from laconic.contract import fingerprint
from laconic.errors import LaconicError
from laconic.program import (
    Mask,
    Uniform,
    capture,
    clone,
    fold_batch_norm,
    load,
    packed_bytes,
    read,
    represent,
    represent_edge,
    save,
    tidy,
    weights,
)
from laconic.program import file as file_module
from laconic.program.represent import edges, represented, share_edge
from networks import NETWORKS, build, captured, quantize

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")


def saved(program, folder):
    path = folder / "network.laconic"
    save(program, path)
    return path


def compressed(name):
    """A network with its norms folded, masks on its first weights and, where it has kernels, quantized weights and edges."""
    program, example = captured(name)
    for weight in weights(program)[:2]:
        represent(program, weight.name, Mask(torch.rand(weight.value.shape, generator=torch.Generator().manual_seed(0)) > 0.4))
    if name not in ("lstm", "gru", "tied"):
        quantize(program, example)
    return program, example


def outputs(program, example):
    result = program(*example)
    return result if isinstance(result, tuple) else (result,)


def assert_same_program(one, other, example):
    for mode in (False, True):
        torch.manual_seed(3)
        expected = outputs(one.train(mode), example)
        torch.manual_seed(3)
        assert all(torch.equal(a, b) for a, b in zip(outputs(other.train(mode), example), expected, strict=True))
    ours, theirs = one.eval().state_dict(), other.eval().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {name for name, _ in one.named_parameters()} == {name for name, _ in other.named_parameters()}
    assert (one.inputs, one.aliases) == (other.inputs, other.aliases)
    nodes, others = list(one.graph.nodes), list(other.graph.nodes)
    assert [(n.op, n.name, str(n.target)) for n in nodes] == [(n.op, n.name, str(n.target)) for n in others]
    assert [[m.name for m in n.all_input_nodes] for n in nodes] == [[m.name for m in n.all_input_nodes] for n in others]
    assert [n.meta.get("source") for n in nodes] == [n.meta.get("source") for n in others]
    forms = [[(name, [type(form) for form in chain]) for name, chain in represented(program)] for program in (one, other)]
    assert forms[0] == forms[1]
    assert [form.settings() for form in edges(one).values()] == [form.settings() for form in edges(other).values()]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_as_it_was(name, tmp_path):
    program, example = captured(name)
    assert_same_program(program, load(saved(program, tmp_path)), example)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_with_its_representations_and_edges(name, tmp_path):
    program, example = compressed(name)
    assert list(represented(program))
    back = load(saved(program, tmp_path))
    assert_same_program(program, back, example)
    assert packed_bytes(back) == packed_bytes(program)


def test_tensors_come_back_where_kernels_read_them_as_they_did(tmp_path):
    program, example = captured("convolution")
    for odd in ("a" * length for length in range(1, 9)):  # moves what follows by a byte each
        program.register_buffer(odd, torch.zeros(3, dtype=torch.uint8))
        loaded = load(saved(program, tmp_path))
        assert all(tensor.data_ptr() % 16 == 0 for tensor in loaded.state_dict().values())
        assert all(map(torch.equal, outputs(loaded, example), outputs(program, example)))


@pytest.mark.parametrize("name", ["convolution", "tied", "lstm", "two-outputs"])
def test_saving_what_was_loaded_gives_the_same_content(name, tmp_path):
    program, _ = compressed(name)
    first = saved(program, tmp_path)
    again = tmp_path / "again"
    save(load(first), again)
    (metadata, tensors), (metadata_again, tensors_again) = metadata_of(first), metadata_of(again)
    assert metadata == metadata_again
    assert tensors.keys() == tensors_again.keys()
    assert all(torch.equal(tensors[key], tensors_again[key]) for key in tensors)


def test_the_same_program_gives_the_same_bytes(tmp_path):
    program, _ = compressed("two-inputs")
    contents = set()
    for _ in range(8):
        contents.add(saved(program, tmp_path).read_bytes())
    assert len(contents) == 1


def test_saving_leaves_the_program_as_it_was(tmp_path):
    program, example = compressed("dropout")
    program.train()
    copied = clone(program)
    saved(program, tmp_path)
    assert program.training
    torch.manual_seed(0)
    expected = copied(*example)
    torch.manual_seed(0)
    assert torch.equal(program(*example), expected)
    assert not load(tmp_path / "network.laconic").training


def own_bytes(path):
    """What the tensors of a file take, without its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_packed_network_computes_the_same_to_the_bit(name, tmp_path):
    program, example = compressed(name)
    plain = own_bytes(saved(program, tmp_path))
    save(program, tmp_path / "packed", pack=True)
    back = load(tmp_path / "packed")
    for ours, theirs in zip(outputs(back, example), outputs(program.eval(), example), strict=True):
        assert torch.equal(ours, theirs)
    assert packed_bytes(back) == packed_bytes(program)
    assert fingerprint(back) == fingerprint(program)
    assert {name for name, _ in represented(back)} == {name for name, _ in represented(program)}
    assert (back.inputs, back.aliases) == (program.inputs, program.aliases)
    assert packed_bytes(program) <= own_bytes(tmp_path / "packed") < plain
    back.train()
    sum(output.square().sum() for output in outputs(back, example)).backward()
    assert any(parameter.grad is not None for parameter in back.parameters())


def test_packing_what_was_packed_gives_the_same_content(tmp_path):
    program, _ = compressed("convolution")
    save(program, tmp_path / "packed", pack=True)
    save(load(tmp_path / "packed"), tmp_path / "again", pack=True)
    assert (tmp_path / "packed").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_packed_weight_that_is_frozen_stays_frozen(tmp_path):
    program, _ = compressed("convolution")
    program.get_parameter("classifier.parametrizations.weight.original").requires_grad_(False)
    save(program, tmp_path / "packed", pack=True)
    assert not load(tmp_path / "packed").get_parameter("classifier.parametrizations.weight.original").requires_grad


def test_files_of_the_first_format_are_read(tmp_path):
    """They name no settings that came later, and have nothing packed."""
    program, example = compressed("convolution")
    path = saved(program, tmp_path)
    metadata, tensors = metadata_of(path)
    header = json.loads(metadata["laconic"])
    described = json.loads(header["program"])
    for entry in [*described["representations"], *described["edges"]]:
        entry["settings"] = {key: entry["settings"][key] for key in ("bits", "signed", "axis") if key in entry["settings"]}
    text = json.dumps(described)
    save_file(tensors, path, {"laconic": json.dumps({"format": "1", "sha256": file_module._digest(text, tensors), "program": text})})
    assert_same_program(program, load(path), example)


def test_ties_stay_ties(tmp_path):
    program, example = compressed("tied")
    back = load(saved(program, tmp_path))
    ((alias, name),) = back.aliases.items()
    back.train()(*example).sum().backward()
    parameters = dict(back.named_parameters(remove_duplicate=False))
    path, _, attribute = name.rpartition(".")
    assert parameters[alias] is parameters[f"{path}.parametrizations.{attribute}.original"]


def test_two_nodes_that_share_a_grid_share_it_again(tmp_path):
    program, example = captured("convolution")
    relus = [node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default]
    edge = represent_edge(program, relus[0], Uniform(torch.tensor(0.1), torch.tensor(3.0), 8, signed=False))
    share_edge(program, relus[1], edge)
    tidy(program)
    back = load(saved(program, tmp_path))
    assert len(set(map(id, edges(back).values()))) == 1
    assert_same_program(program, back, example)


def test_what_is_frozen_stays_frozen(tmp_path):
    module, example = build("convolution")
    module.classifier.weight.requires_grad_(False)
    back = load(saved(capture(module, example), tmp_path))
    assert [name for name, parameter in back.named_parameters() if not parameter.requires_grad] == ["classifier.weight"]


def test_a_parameter_of_whole_numbers_comes_back(tmp_path):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor([1, 2, 3]), requires_grad=False)

        def forward(self, x):
            return x + self.shift

    example = (torch.randn(2, 3),)
    program = capture(Shifted(), example)
    assert_same_program(program, load(saved(program, tmp_path)), example)


def test_a_loaded_program_learns_and_is_edited_as_any_other(tmp_path):
    module, example = build("residual")
    program = load(saved(capture(module, example), tmp_path))
    assert len(fold_batch_norm(program)) == 4
    torch.testing.assert_close(program(*example), module.eval()(*example), rtol=1e-4, atol=1e-5)
    program.train()(*example).sum().backward()
    assert all(parameter.grad is not None for parameter in program.parameters())
    node = next(node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    assert node.meta["val"].shape[1:] == (8, 8, 8)
    assert "networks.py:" in node.meta["source"]
    for batch in (1, 5):
        assert len(program(torch.randn(batch, 3, 8, 8))) == batch


def test_a_fresh_process_without_the_source_of_the_model_computes_the_same(tmp_path):
    paths = []
    for name in ("residual", "tied", "lstm"):
        program, example = compressed(name)
        save(program, tmp_path / name)
        torch.save((example, program(*example).detach()), tmp_path / f"{name}.outputs")
        paths.append(str(tmp_path / name))
    code = """
import sys, torch
from pathlib import Path
from laconic.program import load
for path in sys.argv[1:]:
    example, expected = torch.load(path + ".outputs")
    assert torch.equal(load(Path(path))(*example), expected), path
assert "networks" not in sys.modules
"""
    source = Path(laconic.__file__).parents[1]
    child = subprocess.run(
        [sys.executable, "-c", code, *paths],
        cwd=tmp_path,
        env={"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr


# damage --------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_is_found(tmp_path):
    program, _ = compressed("convolution")
    path = saved(program, tmp_path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    positions = {*range(8), *torch.randint(len(content), (120,), generator=generator).tolist(), len(content) - 1}
    for position in sorted(positions):
        changed = bytearray(content)
        changed[position] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        path.write_bytes(changed)
        with pytest.raises(LaconicError):
            load(path)


@pytest.mark.parametrize("word", ["laconic", "sha256", "program", "__metadata__", "tensor.0", "F32", "shape", "data_offsets"])
def test_a_changed_letter_in_the_header_is_found(word, tmp_path):
    program, _ = compressed("convolution")
    path = saved(program, tmp_path)
    content = path.read_bytes()
    position = content.index(word.encode())
    for offset in range(len(word)):
        changed = bytearray(content)
        changed[position + offset] ^= 1
        path.write_bytes(changed)
        with pytest.raises(LaconicError):
            load(path)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.7, 0.999, 1.1])
def test_a_truncated_or_lengthened_file_is_found(share, tmp_path):
    program, _ = compressed("convolution")
    path = saved(program, tmp_path)
    content = path.read_bytes()
    path.write_bytes((content + content)[: int(share * len(content))])
    with pytest.raises(LaconicError, match="damaged"):
        load(path)


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_another_tensor_in_its_place_is_found(tmp_path):
    path = saved(captured("two-inputs")[0], tmp_path)
    metadata, tensors = metadata_of(path)
    tensors["tensor.0"] = tensors["tensor.0"] + 1
    save_file(tensors, path, metadata)
    with pytest.raises(LaconicError, match="checksum"):
        load(path)


def test_a_missing_tensor_is_found(tmp_path):
    path = saved(captured("two-inputs")[0], tmp_path)
    metadata, tensors = metadata_of(path)
    del tensors["tensor.0"]
    save_file(tensors, path, metadata)
    with pytest.raises(LaconicError, match="checksum"):
        load(path)


def test_a_file_of_tensors_alone_is_told_from_a_program(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(LaconicError, match="holds tensors but no program"):
        load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("missing", ["format", "sha256", "program"])
def test_a_file_without_version_or_checksum_is_refused(missing, tmp_path):
    path = saved(captured("two-inputs")[0], tmp_path)
    metadata, tensors = metadata_of(path)
    header = json.loads(metadata["laconic"])
    del header[missing]
    save_file(tensors, path, {"laconic": json.dumps(header)})
    with pytest.raises(LaconicError):
        load(path)


def test_another_version_of_the_format_is_named(tmp_path):
    path = saved(captured("two-inputs")[0], tmp_path)
    metadata, tensors = metadata_of(path)
    save_file(tensors, path, {"laconic": json.dumps(json.loads(metadata["laconic"]) | {"format": "999"})})
    with pytest.raises(LaconicError, match="has format 999, this version of laconic reads format"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\x80\x02}q\x00.", b"\xff" * 100])
def test_what_is_no_program_at_all_is_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(LaconicError, match="damaged or no program"):
        load(tmp_path / "file")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(LaconicError, match="there is no program at"):
            load(path)


def test_nothing_is_left_where_a_program_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    program = captured("two-inputs")[0]
    for path in (tmp_path / "file" / "network", tmp_path / "folder"):
        with pytest.raises(LaconicError, match=f"cannot write {path}"):
            save(program, path)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_graph_that_the_format_does_not_know_leaves_the_file_that_was_there(tmp_path):
    program = captured("two-inputs")[0]
    path = saved(program, tmp_path)
    content = path.read_bytes()
    node = next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)
    node.target = torch.nn.functional.relu
    with pytest.raises(LaconicError, match=r"relu at .*networks\.py:\d+.* cannot be saved"):
        save(program, path)
    node.target = torch.ops.aten.relu.default
    node.args = (node.args[0], object())
    with pytest.raises(LaconicError, match=r"argument .* of type object cannot be saved"):
        save(program, path)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_operation_that_this_torch_does_not_have_is_named(tmp_path, monkeypatch):
    path = saved(captured("two-inputs")[0], tmp_path)
    metadata, tensors = metadata_of(path)
    header = json.loads(metadata["laconic"])
    text = header["program"].replace("aten::relu.default", "aten::no_such_operation.default")
    monkeypatch.setattr(file_module, "_digest", lambda *_: header["sha256"])
    save_file(tensors, path, {"laconic": json.dumps(header | {"program": text})})
    with pytest.raises(LaconicError, match="has no operation aten::no_such_operation"):
        load(path)


def test_special_numbers_survive(tmp_path):
    class Limits(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]))

        def forward(self, x):
            return torch.masked_fill(x * self.weight, x > 0, float("-inf")).to(torch.float64)

    example = (torch.randn(2, 4),)
    program = capture(Limits(), example)
    back = load(saved(program, tmp_path))
    assert torch.equal(read(back, "weight").view(torch.int32), read(program, "weight").view(torch.int32))
    torch.testing.assert_close(back(*example), program(*example), rtol=0, atol=0, equal_nan=True)
