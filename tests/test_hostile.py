"""Files made to do harm: nothing is executed, nothing allocated, nothing accepted, all is said."""

import hashlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import faults
import h5py
import numpy as np
import pytest

import pqlib
from pqlib import _file, quantizers
from pqlib.datasets import apart


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PQLIB_CACHE", str(tmp_path / "cache"))


# Some random ones; scripts/stress tries thousands ---------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    made = {"index": [], "quantizer": []}
    for kind, several, use in (
        ("index", faults.indexes(), faults.use_index),
        ("quantizer", faults.family(), faults.use_quantizer),
    ):
        for one in several.values():
            one.save(folder / "valid")
            use(folder / "valid")  # compiles the loops, which may take longer than a case may
            made[kind].append((folder / "valid").read_bytes())
    return made


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("kind", ["index", "quantizer"])
def test_spoilt_index_files(originals, kind, forged, tmp_path):
    use = faults.use_index if kind == "index" else faults.use_quantizer
    path = tmp_path / "spoilt"
    accepted = 0
    for case in range(200):
        rng = np.random.default_rng(case)
        original = originals[kind][case % len(originals[kind])]
        spoilt = (faults.forged if forged else faults.mutated)(original, rng)
        path.write_bytes(spoilt)
        said = faults.outcome(use, path)
        assert said in ("accepted", "refused"), (case, said)
        if not forged:
            assert said == "refused" or spoilt == original, f"case {case} was altered"
        accepted += said == "accepted"
    assert accepted < 150


@pytest.mark.parametrize("ending", [".fvecs", ".bvecs", ".fbin", ".u8bin", ".i8bin", ".npy"])
def test_spoilt_plain_files(ending, tmp_path):
    path = tmp_path / f"spoilt{ending}"
    for case in range(60):
        path.write_bytes(faults.mutated(faults.plain(ending), np.random.default_rng(case)))
        said = faults.outcome(faults.use_dataset, path)
        assert said in ("accepted", "refused"), (case, said)


def test_spoilt_hdf5_files(tmp_path):
    faults.write_hdf5(tmp_path / "valid", chunks=(50, 8), compression="gzip")
    original = (tmp_path / "valid").read_bytes()
    path = tmp_path / "spoilt.hdf5"
    for case in range(12):
        path.write_bytes(faults.mutated(original, np.random.default_rng(case)))
        said = faults.outcome(faults.use_dataset, path)
        assert said in ("accepted", "refused"), (case, said)


def test_every_byte_of_an_index_file_counts(originals, tmp_path):
    """Also those of the paddings: with a checksum, no altered file is accepted."""
    path = tmp_path / "index"
    original = originals["index"][2]
    rng = np.random.default_rng(0)
    for at in [*range(0, 200), *rng.integers(len(original), size=200), len(original) - 1]:
        altered = bytearray(original)
        altered[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        for mmap in (False, True):
            with pytest.raises(ValueError, match="index"):
                pqlib.load_index(path, mmap=mmap)
    # Without verification only what is mapped is taken on trust.
    at = len(original) - 100
    path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
    with pytest.raises(ValueError, match="damaged"):
        pqlib.load_index(path, mmap=True)
    pqlib.load_index(path, mmap=True, verify=False)


# Code in files --------------------------------------------------------------------------------


class Payload:
    """What, unpickled, leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_no_code_is_executed(tmp_path):
    trace = tmp_path / "trace"
    objects = np.array([[Payload(trace)]], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, objects, allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Payload(trace)))
    with zipfile.ZipFile(tmp_path / "c.npy", "w") as file:
        file.writestr("train.npy", buffer.getvalue())
    for name in ("a.npy", "b.npy", "c.npy"):
        with pytest.raises(ValueError, match=name):
            pqlib.load_dataset(tmp_path / name)
    # The header of an index that names a class, a function, an object array.
    named = {"kind": "pathlib.Path.touch", "parameters": {"path": str(trace)}}
    (tmp_path / "index").write_bytes(faults.assembled({"__metadata__": named}, b""))
    with pytest.raises(ValueError, match="expected one of"):
        pqlib.load_index(tmp_path / "index")
    with pytest.raises(ValueError, match="expected one of"):
        quantizers.load_quantizer(tmp_path / "index")
    content = pickle.dumps(Payload(trace))
    header = {
        "__metadata__": {"kind": "BruteForce", "parameters": {"d": 1, "ntotal": 1}},
        "vectors": {"dtype": "O", "shape": [1], "data_offsets": [0, len(content)]},
    }
    (tmp_path / "index").write_bytes(faults.assembled(header, content))
    with pytest.raises(ValueError, match="no index file"):
        pqlib.load_index(tmp_path / "index")
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["train"] = np.frombuffer(content, np.uint8)[None]
        file.create_dataset("test", data=["x"], dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match=r"d\.hdf5"):
        pqlib.load_dataset(tmp_path / "d.hdf5")
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # the payload works, where it is let


# Memory ---------------------------------------------------------------------------------------


def in_little_memory(code, paths):
    """Run code with each path in a process that may take little memory; return what it prints."""
    text = (
        "import sys, pqlib; from pqlib import quantizers; sys.path.insert(0, sys.argv[1])\n"
        f"import faults; faults.limit_memory({256 << 20})\n"
        "for path in sys.argv[2:]:\n"
        f"    try:\n        {code}\n        print('accepted', path)\n"
        "    except ValueError as problem:\n        print('refused', problem)\n"
    )
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", text, tests, *map(str, paths)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def bombs(folder):
    """Small files that say they are large."""
    with h5py.File(folder / "never-written.hdf5", "w") as file:
        file.create_dataset("train", (2**40, 128), "f4", chunks=(1000, 128))
        file["test"] = np.zeros((1, 128), "f4")
    with h5py.File(folder / "zeros.hdf5", "w") as file:
        file.create_dataset("train", data=np.zeros((2**20, 128), "u1"), compression="gzip",
                            compression_opts=9)  # fmt: skip
        file["test"] = np.zeros((1, 128), "f4")
    with h5py.File(folder / "chunk.hdf5", "w") as file:
        file.create_dataset("train", data=np.zeros((10, 8), "f4"), chunks=(10**7, 8),
                            maxshape=(None, 8), compression="gzip")  # fmt: skip
        file["test"] = np.zeros((1, 8), "f4")
    (folder / "n.fbin").write_bytes(struct.pack("<II", 2**31, 2**31) + bytes(64))
    (folder / "d.fvecs").write_bytes(struct.pack("<i", 2**31 - 1) + bytes(64))
    head = str({"descr": "<f4", "fortran_order": False, "shape": (2**40, 128)}).ljust(117) + "\n"
    (folder / "shape.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(64)
    )


def test_small_files_that_say_they_are_large(tmp_path):
    bombs(tmp_path)
    paths = sorted(path for path in tmp_path.iterdir() if path.is_file())
    said = in_little_memory("pqlib.load_dataset(path)", paths)
    assert len(said) == len(paths) == 6
    for line, path in zip(said, paths, strict=True):
        assert line.startswith("refused")
        assert path.name in line


LARGE = [
    ("MultiLevelPQ", "d", 2**40),
    ("MultiLevelPQ", "n_inner", 2**50),
    ("MultiLevelPQ, codec", "n_inner", 2**62),
    ("MultiLevelPQ", "ntotal", 2**50),
    ("MultiLevelPQ", "nbits", 2**20),
    ("MultiLevelPQ", "nbits", 16),
    ("CascadeIndex", "n_lists", 2**40),
    ("CascadeIndex", "components", 2**40),
    ("GraphIndex", "degree", 2**40),
    ("GraphIndex", "components", 2**40),
    ("BruteForce", "ntotal", 2**50),
    ("MultiLevelPQ", "codec", {"kind": "ProductQuantizer", "d": 2**20, "m": 1, "nbits": 16}),
]
LARGE_QUANTIZERS = [
    ("ProductQuantizer", {"d": 2**20, "m": 1, "nbits": 16}),
    ("OptimizedProductQuantizer", {"d": 2**20, "m": 1, "nbits": 16}),
    ("AnisotropicProductQuantizer", {"d": 2**20, "m": 1, "nbits": 16}),
    ("LocallyOptimizedPQ", {"n_clusters": 2**40}),
    ("ResidualQuantizer", {"m": 2**20}),
    ("ResidualQuantizer", {"d": 2**30}),
    ("ScalarQuantizer", {"d": 2**40}),
    ("CompositeQuantizer", {"d": 2**31}),
    ("RaBitQuantizer", {"d": 2**40}),
    ("RaBitQuantizer", {"d": 2**20}),
    ("LocalSearchQuantizer", {"encode_rounds": 2**31}),  # memory it would not take, but years
]


def test_parameters_that_say_they_are_large(originals, tmp_path):
    """Nothing is allocated for what a header says before the sections bear it out."""
    for what, cases, load in (
        ("index", LARGE, "pqlib.load_index(path)"),
        ("quantizer", LARGE_QUANTIZERS, "quantizers.load_quantizer(path)"),
    ):
        paths = []
        for number, (kind, *change) in enumerate(cases):
            for original in originals[what]:
                header, data = faults.apart(original)
                metadata = header["__metadata__"]
                wants = kind.endswith(", codec") or change[0] == "codec"
                fits = not wants or metadata["parameters"].get("codec")
                if metadata["kind"] == kind.split(",")[0] and fits:
                    break
            else:
                pytest.fail(f"no file of a {kind} to change")
            metadata["parameters"].update(change[0] if what == "quantizer" else [change])
            paths.append(tmp_path / f"{what} {number}")
            paths[-1].write_bytes(faults.assembled(header, data))
        said = in_little_memory(load, paths)
        for line, case in zip(said, cases, strict=True):
            assert line.startswith("refused"), (case, line)


# Indexes whose checksums are right and whose content is not ------------------------------------


def changed(index, path, section, change):
    """Save an index, change a section, and make the checksums right again."""
    index.save(path)
    header, data = faults.apart(path.read_bytes())
    entry = header[section]
    begin, end = entry["data_offsets"]
    array = np.frombuffer(data[begin:end], _file.DTYPES[entry["dtype"]]).reshape(entry["shape"])
    array = array.copy()
    change(array)
    data[begin:end] = array.tobytes()
    path.write_bytes(faults.assembled(header, data))


def put(place, value):
    def change(array):
        array[place] = value

    return change


def swap(array, old, new):
    (place,) = np.flatnonzero(array == old)
    array[place] = new


CONTENTS = {
    "a position beyond the end": ("shared", "lists", lambda a: swap(a.view("<i8"), 399, 10**9)),
    "a position twice": ("shared", "lists", lambda a: swap(a.view("<i8"), 399, 398)),
    "a list of negative size": ("shared", "list_sizes", put(0, -5)),
    "sizes that wrap around": ("shared", "list_sizes", put(slice(0, 2), 2**62)),
    "codebooks of no cluster": ("per-cluster", "own_codebooks_of", put(-1, 99)),
    "codebooks of a cluster twice": ("per-cluster", "own_codebooks_of", put(0, 1)),
    "codecs of no list": ("codec", "codecs", put(-1, 99)),
    "an order that repeats": ("CascadeIndex", "order", lambda a: swap(a, 7, 8)),
    "an order beyond the end": ("CascadeIndex", "order", put(0, 2**30)),
    "lists that overlap": ("CascadeIndex", "starts", put(2, 0)),
    "lists beyond the end": ("CascadeIndex", "starts", put(2, 10**6)),
    "blocks elsewhere": ("CascadeIndex", "block_starts", put(2, 10**6)),
    "half norms of other codes": ("CascadeIndex", "half_norms", put(0, 60_000)),
    "a code of -128": ("CascadeIndex", "codes", put((0, 0, 0, 0), 0)),
    "a shift of 40 bits": ("CascadeIndex", "shift", put(0, 40)),
    "a rotation that is not finite": ("CascadeIndex", "axes", put((0, 0), np.nan)),
    "more lists to probe than there are": ("CascadeIndex", "settings", put(0, 1e9)),
    "an edge beyond the end": ("GraphIndex", "edges", put((3, 1), 400)),
    "an edge before the beginning": ("GraphIndex", "edges", put((3, 1), -2)),
    "an entry beyond the end": ("GraphIndex", "entries", put(0, 10**6)),
    "an entry before the beginning": ("GraphIndex, whole", "entries", put(0, -1)),
    "nodes that overlap": ("GraphIndex", "firsts", put(2, 0)),
    "nodes beyond the end": ("GraphIndex", "firsts", put(2, 2**31 - 1)),
    "an order of a graph that repeats": ("GraphIndex", "order", lambda a: swap(a, 7, 8)),
    "more candidates than nodes kept": ("GraphIndex", "settings", put(1, 10**9)),
    "a scale that is not finite": ("GraphIndex", "scale", put(0, np.inf)),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content_that_no_save_writes(name, tmp_path):
    kind, section, change = CONTENTS[name]
    path = tmp_path / "index"
    index = faults.indexes()[kind]
    changed(index, path, section, lambda a: None)
    assert pqlib.load_index(path).ntotal == 400  # as it was, it loads
    changed(index, path, section, change)
    for mmap in (False, True):
        with pytest.raises(ValueError, match="index"):
            pqlib.load_index(path, mmap=mmap)


def test_values_that_no_training_of_a_quantizer_gives():
    tried = 0
    for quantizer in faults.family().values():
        state = dict(quantizer.state())
        for name, array in state.items():
            if array.dtype.kind != "f" or not array.size:
                continue
            squared = name.endswith(("objective", "constants"))
            for wrong in (np.nan, -np.inf, *(() if squared else (3e38,))):
                changed = array.copy()
                changed.flat[-1] = wrong
                with pytest.raises(ValueError, match=name):
                    quantizer.fresh().restore({**state, name: changed})
                tried += 1
            if name.endswith("rotation"):
                with pytest.raises(ValueError, match="entries above 1"):
                    quantizer.fresh().restore({**state, name: 1.1 * np.eye(faults.D)})
    assert tried > 40


# HDF5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test", "neighbors"])
@pytest.mark.parametrize("how", ["external link", "soft link", "external storage", "virtual"])
def test_data_outside_of_the_file_are_refused(tmp_path, part, how):
    secret = tmp_path / "secret.hdf5"
    faults.write_hdf5(secret)
    path = tmp_path / "set.hdf5"
    faults.write_hdf5(path)
    with h5py.File(path, "a") as file:
        shape, dtype = file[part].shape, file[part].dtype
        del file[part]
        if how == "external link":
            file[part] = h5py.ExternalLink(str(secret), part)
        elif how == "soft link":
            file[part] = h5py.SoftLink("/elsewhere")
        elif how == "external storage":
            (tmp_path / "raw").write_bytes(bytes(int(np.prod(shape)) * dtype.itemsize))
            file.create_dataset(part, shape, dtype, external=[(str(tmp_path / "raw"), 0, 10**6)])
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(secret), part, shape)
            file.create_virtual_dataset(part, layout)
    with pytest.raises(ValueError, match=r"link out of the file|other files"):
        pqlib.load_dataset(path)


def test_numbers_that_the_library_has_no_type_for_are_refused_by_name(tmp_path):
    """Its own ValueError, which says nothing of the file, must not pass for one of ours."""
    path = tmp_path / "set.hdf5"
    faults.write_hdf5(path)
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(2**31 - 1)
    with h5py.File(path, "a") as file:
        del file["train"]
        h5py.h5d.create(file.id, b"train", kind, h5py.h5s.create_simple((300, faults.D)))
        with pytest.raises(ValueError, match="Insufficient precision"):
            file["train"].dtype.name  # noqa: B018
    with pytest.raises(ValueError, match="a part of it cannot be read") as refused:
        pqlib.load_dataset(path)
    assert str(path) in str(refused.value)


def test_a_crash_of_the_library_stays_in_the_child(tmp_path, monkeypatch):
    """A child that dies, hangs or takes all memory is an error here, and nothing more."""
    path = tmp_path / "set.hdf5"
    faults.write_hdf5(path)
    child = tmp_path / "child.py"
    monkeypatch.setattr(apart, "__file__", str(child))
    limits = Path(apart.allow.__code__.co_filename).read_text().split("def _main")[0]
    for deed, words in (
        ("os.kill(os.getpid(), 11)", "crashes the library"),
        ("while True: pass", "busy without end"),
        ("os._exit(3)", "crashes the library, exit status 3"),
    ):
        quick = limits.replace("CPU_SECONDS = 3", "CPU_SECONDS = 1")
        child.write_text(f"{quick}\n_limit()\n{deed}")
        with pytest.raises(ValueError, match=words) as refused:
            pqlib.load_dataset(path)
        assert str(path) in str(refused.value)
    child.write_text(limits + "\n_limit()\nx = bytearray(1 << 32)\n")
    with pytest.raises(ValueError, match="exit status 1"):
        pqlib.load_dataset(path)


def test_a_file_is_walked_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "set.hdf5"
    faults.write_hdf5(path)
    walks = []
    monkeypatch.setattr(apart, "_walk_apart", lambda kind, files, options: walks.extend(files))
    pqlib.load_dataset(path)
    pqlib.load_dataset(path)
    assert walks == [path]
    faults.write_hdf5(path, chunks=(30, 8))
    pqlib.load_dataset(path)
    assert len(walks) == 2


def test_a_recorded_checksum_is_compared_and_trusted_only_in_our_own_folders(tmp_path, monkeypatch):
    """A hostile file may bring its checksum along; in the cache, none but us writes."""
    walks = []
    monkeypatch.setattr(apart, "_walk_apart", lambda kind, files, options: walks.extend(files))
    (tmp_path / "cache").mkdir()
    for folder, trusted in ((tmp_path, False), (tmp_path / "cache", True)):
        path = folder / "set.hdf5"
        record = folder / "set.hdf5.sha256"
        faults.write_hdf5(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        record.write_text(f"{digest}  set.hdf5\n")
        walks.clear()
        pqlib.load_dataset(path)
        assert bool(walks) is not trusted
        for form in (digest, f"SHA256 (set.hdf5) = {digest}", f"\\{digest} *set.hdf5",
                     f"{digest[::-1]}  other\n{digest.upper()}  set.hdf5"):  # fmt: skip
            record.write_text(form)
            pqlib.load_dataset(path)
        record.write_text(f"{digest[::-1]}  set.hdf5\n")
        with pytest.raises(ValueError, match=f"{digest}, but {digest[::-1]} was recorded"):
            pqlib.load_dataset(path)
        record.write_text("<html>sign in</html>")
        if trusted:
            with pytest.raises(ValueError, match="expected a SHA-256 of 64"):
                pqlib.load_dataset(path)
        else:
            pqlib.load_dataset(path)  # somebody else's, about something else


def test_the_embedded_set_is_the_recorded_one(monkeypatch, photo_sift):
    assert photo_sift.path.with_name("photo-sift.hdf5.sha256").is_file()
    walks = []
    monkeypatch.setattr(apart, "_walk_apart", lambda kind, files, options: walks.extend(files))
    pqlib.load_dataset("photo-sift", n_test=10)
    assert walks == []
