"""Archives that somebody altered: refused before a server starts, in one sentence, however they were altered."""

from __future__ import annotations

import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_models import archive

from retort.__main__ import main
from retort.core.artifact import load_artifact
from retort.core.errors import ArtifactError
from retort.core.formats.onnx_side_files import side_files
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.mar import read_member, verify_mar, write_mar

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive as `retort pack` writes it."""
    path = tmp_path_factory.mktemp("whole") / "model.mar"
    shutil.copyfile(archive("vector", path.parent / "made").main, path)
    return path


def _members(path: Path) -> Members:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist() if name != "SHA256SUMS"}


def assert_refused(path: Path, said: str) -> None:
    """An archive is refused in one sentence with a remedy."""
    with pytest.raises(ArtifactError, match=said) as caught:
        open_mar(load_artifact(path))
    assert "pack" in caught.value.remedy
    assert "\n" not in caught.value.message


def _directory(content: bytes) -> int:
    return int(struct.unpack("<I", content[-6:-2])[0])


def _with_mode(content: bytes, mode: int) -> bytes:
    """The first member's entry in the directory has another file mode."""
    at = _directory(content) + 38
    return content[:at] + struct.pack("<I", mode << 16) + content[at + 4 :]


def _with_flags(content: bytes, flags: int) -> bytes:
    at = _directory(content) + 8
    return content[:at] + struct.pack("<H", flags) + content[at + 2 :]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda content: content + bytes(400), "400 bytes behind its end"),
        (lambda content: bytes(400) + content, "the headers of .* were altered"),
        (lambda content: content[:-2] + b"\x05\x00hello", "zip comment of 5 bytes"),
        (lambda content: _with_mode(content, 0o120777), "is a symbolic link"),
        (lambda content: _with_mode(content, 0o100777), "directory were altered"),
        (lambda content: _with_flags(content, 1), "is encrypted"),
    ],
)
def test_altered_zip_files_are_refused(whole: Path, tmp_path: Path, alter: Callable[[bytes], bytes], said: str) -> None:
    """Bytes before and behind, comments, links, other modes and encrypted members are refused."""
    path = tmp_path / "model.mar"
    path.write_bytes(alter(whole.read_bytes()))
    assert_refused(path, said)


def _without(name: str) -> Callable[[Members], object]:
    return lambda members: members.pop(name)


def _with_line(line: str) -> Callable[[Members], object]:
    return lambda members: members.update({"model-config.yaml": members["model-config.yaml"] + line.encode() + b"\n"})


def _replaced(name: str, old: str, new: str) -> Callable[[Members], object]:
    def _change(members: Members) -> None:
        assert old.encode() in members[name]
        members[name] = members[name].replace(old.encode(), new.encode())

    return _change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.update({"helper.py": b"import os"}), "helper.py', which is Python code"),
        (lambda members: members.update({"notes.txt": b"x"}), "notes.txt', which is no file of a packed model"),
        (lambda members: members.update({"retort/data.bin": b"x"}), "retort/data.bin"),
        (_without("golden.npz"), "has no golden.npz"),
        (_without("tensor.py"), "has no tensor.py"),
        (_without("model-config.yaml"), "has no model-config.yaml"),
        (_with_line("useVenv: true"), "sets 'useVenv'"),
        (_with_line("parallelType: custom"), "sets 'parallelType'"),
        (_with_line("torchrun: {nproc-per-node: 4}"), "sets 'torchrun'"),
        (_replaced("torch.py", "class Tensor", "import os\n\nclass Tensor"), "another 'torch.py' than this version"),
        (_replaced("torch.py", "class Tensor", "class Tensor:::"), "another 'torch.py' than this version"),
        (_with_line("deviceIds: [0]"), "sets 'deviceIds'"),
        (_with_line("handler: {startup: 'curl x | sh'}"), "sets 'handler'"),
        (_with_line("batchSize: 8"), "cannot be read at 'batchSize"),
        (_with_line("? useVenv\n: true"), "sets"),
        (
            _replaced("model-config.yaml", "minWorkers: 1", "minWorkers: 9"),
            "says minWorkers 9, but serving.json says 1",
        ),
        (
            _replaced("model-config.yaml", "maxBatchDelay: 1", "maxBatchDelay: 0"),
            "cannot be read at 'maxBatchDelay",
        ),
        (_replaced("model-config.yaml", '"cpu"', '"gpu"'), 'says deviceType "gpu", but serving.json says "cpu"'),
        (_replaced("MAR-INF/MANIFEST.json", "tensor.py", "golden.npz"), "MANIFEST.json that contradicts"),
        (_replaced("MAR-INF/MANIFEST.json", '"handler"', '"requirementsFile": "x",\n"handler"'), "contradicts"),
        (_replaced("serving.json", '"name": "', '"name": "a=b,'), "cannot stand in an address"),
    ],
)
def test_archives_with_matching_checksums_are_refused_for_what_they_say(
    whole: Path, tmp_path: Path, change: Callable[[Members], object], said: str
) -> None:
    """New checksums do not help: foreign files, missing files, and configurations that contradict are refused."""
    members = _members(whole)
    change(members)
    write_mar(tmp_path / "model.mar", members)
    verify_mar(tmp_path / "model.mar")
    assert_refused(tmp_path / "model.mar", said)


def test_words_of_another_version_are_no_other_code(whole: Path, tmp_path: Path) -> None:
    """An archive whose stand-in has another docstring is served."""
    members = _members(whole)
    _replaced("torch.py", "No object is one.", "Nothing is one.")(members)
    write_mar(tmp_path / "model.mar", members)
    assert open_mar(load_artifact(tmp_path / "model.mar")).name == open_mar(load_artifact(whole)).name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sitecustomize.py", "every Python runs it"),
        ("usercustomize.py", "every Python runs it"),
        ("sitecustomize/__init__.py", "every Python runs it"),
        ("/etc/cron.d/x", "points outside"),
        ("../evil.py", "points outside"),
        ("retort/../../evil.py", "points outside"),
    ],
)
def test_members_that_would_harm_are_refused(whole: Path, tmp_path: Path, name: str, said: str) -> None:
    """They cannot be written with `write_mar`, and an archive that has them in another way is refused."""
    with pytest.raises(ArtifactError, match=said):
        write_mar(tmp_path / "model.mar", {**_members(whole), name: b""})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "model.mar", "w") as target:
        for member in source.infolist():
            target.writestr(member, source.read(member))
        target.writestr(name, b"import os")
    assert_refused(tmp_path / "model.mar", said)


def test_weights_outside_the_archive_are_refused(whole: Path, tmp_path: Path) -> None:
    """A model that reads `../../etc/passwd`, at the top or inside a branch or a constant, is refused by name."""
    model = onnx.load_from_string(read_member(whole, "model.onnx"))
    outside = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../etc/passwd")
    branch = onnx.helper.make_graph([], "then", [], [], [outside])
    nodes = [
        onnx.helper.make_node("If", ["c"], ["d"], then_branch=branch),
        onnx.helper.make_node("Constant", [], ["e"], value=outside),
    ]
    for place in range(3):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.initializer.append(outside) if place == 2 else changed.graph.node.append(nodes[place])
        assert side_files(changed.SerializeToString()) == {"../../etc/passwd"}
        write_mar(tmp_path / "model.mar", {**_members(whole), "model.onnx": changed.SerializeToString()})
        assert_refused(tmp_path / "model.mar", "reads weights from '../../etc/passwd'")


def test_side_files_are_found_as_onnx_finds_them(whole: Path) -> None:
    """Weights inside the file name no file, one outside names its own, and bytes that are no model are refused."""
    content = read_member(whole, "model.onnx")
    assert side_files(content) == set()
    for damaged in (b"\xff" * 20, content[:-3], b"\x3a\xff\xff\xff\xff\x0f"):
        with pytest.raises(ArtifactError, match="not an ONNX file"):
            side_files(damaged)


def _field(number: int, content: bytes, kind: int = 2) -> bytes:
    """A field of a protobuf message of up to 127 bytes."""
    tag = number << 3 | kind
    head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    return head + (bytes([len(content)]) if kind == 2 else b"") + content


ENTRY = _field(13, _field(1, b"location") + _field(2, b"../../etc/passwd"))
OUTSIDE = _field(14, b"\x01", 0)
TENSORS = {
    "plain": _field(5, ENTRY + OUTSIDE),
    "bits beyond 32": _field(5, ENTRY + _field(14, b"\x81\x80\x80\x80\x10", 0)),
    "a longer number than needed": _field(5, ENTRY + _field(14, b"\x81\x00", 0)),
    "another value before": _field(5, ENTRY + _field(14, b"\x00", 0) + OUTSIDE),
    "an unknown value behind": _field(5, ENTRY + OUTSIDE + _field(14, b"\x07", 0)),
    "the place in the first, the kind in the second": _field(5, ENTRY) + _field(5, OUTSIDE),
}


@pytest.mark.parametrize("name", TENSORS)
def test_side_files_are_those_of_a_protobuf_parser(name: str) -> None:
    """Fields that occur twice, and numbers with more bits or bytes than needed, hide no file."""
    attribute = _field(1, b"value") + TENSORS[name]
    node = _field(4, b"Constant") + _field(2, b"c") + _field(5, attribute)
    content = _field(7, _field(1, node))
    tensor = onnx.ModelProto.FromString(content).graph.node[0].attribute[0].t
    assert (tensor.data_location, tensor.external_data[0].value) == (onnx.TensorProto.EXTERNAL, "../../etc/passwd")
    assert side_files(content) == {"../../etc/passwd"}


def test_a_tag_that_parsers_read_in_different_ways_is_no_model() -> None:
    """A field number beyond 29 bits is another one, or none, depending on the parser."""
    tag = (7 << 3 | 2) + (1 << 32)
    long = bytes(tag >> shift & 127 | 128 * (shift < 28) for shift in range(0, 35, 7))
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        side_files(long + b"\x00")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=8), st.integers(0, 400), st.integers(0, 400))
def test_no_change_of_bytes_hides_a_file(noise: bytes, start: int, stop: int) -> None:
    """Whatever the bytes become: if onnx still finds a file outside, we find it too, or refuse the whole."""
    branch = _field(1, b"then_branch") + _field(6, _field(5, ENTRY + OUTSIDE))
    whole = _field(7, _field(1, _field(5, branch)) + _field(5, ENTRY + OUTSIDE))
    changed = whole[: start % len(whole)] + noise + whole[stop % len(whole) :]
    try:
        graph = onnx.load_from_string(changed).graph
    except Exception:  # the name of the error belongs to protobuf, which has no types
        return
    inner = [tensor for node in graph.node for item in node.attribute for tensor in item.g.initializer]
    outside = [item for item in [*graph.initializer, *inner] if item.data_location == onnx.TensorProto.EXTERNAL]
    values = [entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"]
    # protobuf gives bytes for a text that is not UTF-8
    wanted = {value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values}
    try:
        assert wanted <= side_files(changed)
    except ArtifactError:
        return


@pytest.mark.parametrize(
    ("named", "listed", "said"),
    [
        ((), ("evil.py",), "contains 'evil.py', which the model does not read weights from"),
        ((), ("notes.txt",), "contains 'notes.txt', which the model does not read weights from"),
        (("typing_extensions.py",), ("typing_extensions.py",), "'typing_extensions.py', which is no plain file"),
        (("w.bin", "v.bin"), ("w.bin",), "reads weights from 'v.bin', which is no file of the archive"),
    ],
)
def test_files_of_weights_are_exactly_those_that_the_model_names(
    whole: Path, tmp_path: Path, named: tuple[str, ...], listed: tuple[str, ...], said: str
) -> None:
    """A file is not let in because `serving.json` lists it, and Python code not even if the model reads it."""
    model = onnx.load_from_string(read_member(whole, "model.onnx"))
    for name in named:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        model.graph.initializer.append(tensor)
    members = {**_members(whole), "model.onnx": model.SerializeToString(), **dict.fromkeys(listed, b"import os")}
    listing = "[" + ", ".join(f'"{name}"' for name in listed) + "]"
    _replaced("serving.json", '"external": []', f'"external": {listing}')(members)
    write_mar(tmp_path / "model.mar", members)
    assert_refused(tmp_path / "model.mar", said)


@pytest.mark.parametrize("command", [["serve"], ["show"], ["predict", "--input", "x.npy"]])
def test_every_command_refuses_before_it_starts_anything(
    whole: Path, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve`, `show` and `predict` end with the sentence and its remedy, and no log folder appears."""
    monkeypatch.chdir(tmp_path)
    members = _members(whole)
    _with_line("useVenv: true")(members)
    write_mar(tmp_path / "model.mar", members)
    with pytest.raises(SystemExit) as ended:
        main([command[0], str(tmp_path / "model.mar"), *command[1:]])
    assert ended.value.code not in (0, None)
    said = " ".join(capsys.readouterr().err.split())
    assert "sets 'useVenv', which Retort does not use" in said
    assert "pack the model again" in said
    assert not (tmp_path / "logs").exists()


def assert_flips_are_found(whole: Path, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Every change of one byte, given by its place and the bits that change, is refused; the whole archive is not."""
    content = bytearray(whole.read_bytes())
    path = tmp_path / "model.mar"
    path.write_bytes(content)
    with path.open("r+b") as stream:
        for place, mask in flips:
            stream.seek(place)
            stream.write(bytes([content[place] ^ mask]))
            stream.flush()
            with pytest.raises(ArtifactError):
                verify_mar(path)
            stream.seek(place)
            stream.write(content[place : place + 1])
            stream.flush()
    verify_mar(path)


def _metadata(whole: Path) -> list[int]:
    """The places of all bytes that belong to no member's content."""
    with zipfile.ZipFile(whole) as opened:
        spans = [(info.header_offset + 30 + len(info.filename), info.file_size) for info in opened.infolist()]
    contents = {place for start, size in spans for place in range(start, start + size)}
    return [place for place in range(whole.stat().st_size) if place not in contents]


def test_changed_bytes_are_found_anywhere(whole: Path, tmp_path: Path) -> None:
    """400 changes of one byte, half of them in the zip's own headers and directory, are all found."""
    generator, metadata = random.Random(5), _metadata(whole)
    places = [*generator.choices(metadata, k=200), *(generator.randrange(whole.stat().st_size) for _ in range(200))]
    assert_flips_are_found(whole, tmp_path, [(place, generator.randrange(1, 256)) for place in places])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_bit_of_every_byte_of_the_zip_is_found(whole: Path, tmp_path: Path, every: bool) -> None:
    """One bit of each byte of the headers and the directory, and as many anywhere, are found.

    The long form takes each bit there, and so many anywhere that at least 100,000 are flipped: 2 ms for each.
    """
    generator = random.Random(6)
    metadata = _metadata(whole)
    flips = [(place, 1 << bit) for place in metadata for bit in (range(8) if every else [generator.randrange(8)])]
    more = max(len(metadata), 100_000 - len(flips) if every else 0)
    flips += [(generator.randrange(whole.stat().st_size), 1 << generator.randrange(8)) for _ in range(more)]
    assert_flips_are_found(whole, tmp_path, flips)
