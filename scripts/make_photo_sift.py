"""Make the embedded data set `photo-sift`: SIFT descriptors of freely usable photographs.

Reads photographs which the wheels of scikit-image and scikit-learn contain, computes SIFT
descriptors with OpenCV, and writes two files into pqlib/data:

* photo-sift.hdf5, in ann-benchmarks' layout (train, test, neighbors, distances), with the
  photograph and the keypoint of each descriptor beside it;
* photo-sift.md, the credits: every photograph, its author, its licence and its SHA-256.

Run it in an environment of its own, from the root of the repository:

    python3 -m venv /tmp/photo-sift
    /tmp/photo-sift/bin/pip install '.[photo-sift]'
    /tmp/photo-sift/bin/python scripts/make_photo_sift.py            # write the two files
    /tmp/photo-sift/bin/python scripts/make_photo_sift.py --check    # compare with those there

No network is needed once the packages are installed. The same library versions give the same
contents; OpenCV's processor-dependent routines are switched off, so that every x86-64 processor
should give them.
Other processors or versions may round some keypoints differently; `--check` then says what
differs, and the committed file stays the reference.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

# OpenCV picks its routines by the processor, and they round differently: of 100 descriptors two or
# three would change. Without the optional ones every x86-64 processor takes the same. OpenCV
# reads these variables when it is loaded.
os.environ["OPENCV_CPU_DISABLE"] = "SSSE3,SSE4.1,POPCNT,SSE4.2,FP16,AVX,AVX2,FMA3,AVX512-SKX"
os.environ["OPENCV_IPP"] = "disabled"
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it would warn that IPP is disabled
import cv2

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = ROOT / "pqlib" / "data"
NAME = "photo-sift"

N_BASE = 40_000
N_QUERIES = 1_000
K = 100
SEED = 20240229
# Enlarging by half gives about three times as many keypoints, and 0.02 (OpenCV's default is 0.04)
# keeps those of lower contrast; both leave a repeated keypoint of the stereo pair repeated.
ENLARGE = 1.5
SIFT_PARAMETERS: dict[str, float] = {
    "nfeatures": 0,
    "nOctaveLayers": 3,
    "contrastThreshold": 0.02,
    "edgeThreshold": 10,
    "sigma": 1.6,
}
# Keypoints are stored in steps of 1/16 of a pixel or degree: finer than they are certain, and
# the zero bits that remain compress well.
KEYPOINT_STEPS = 16
# Queries are matched within this many pixels of the same scanline (the pair is rectified).
SCANLINE_TOLERANCE = 1.5
LIBRARIES = ("opencv-python-headless", "scikit-image", "scikit-learn", "numpy", "h5py")
MAX_BYTES = 6_000_000


class InputError(RuntimeError):
    """An input photograph is missing or is not the one the data set was made from."""


@dataclass(frozen=True)
class Photo:
    """One photograph: where it lies inside an installed package, and whom to credit."""

    name: str
    package: str  # distribution name
    module: str  # import name; `path` is relative to its folder
    path: str
    sha256: str
    author: str
    licence: str
    source: str


def _skimage(file: str, sha256: str, author: str, licence: str, source: str) -> Photo:
    place = "scikit-image", "skimage", f"data/{file}"
    return Photo(Path(file).stem, *place, sha256, author, licence, source)


def _sklearn(file: str, sha256: str, author: str, licence: str, source: str) -> Photo:
    place = "scikit-learn", "sklearn", f"datasets/images/{file}"
    return Photo(Path(file).stem, *place, sha256, author, licence, source)


_MIDDLEBURY_AUTHORS = (
    "N. Nesic, P. Westling, X. Wang, Y. Kitajima, G. Krathwohl, D. Scharstein (Middlebury College)"
)
_MIDDLEBURY_LICENCE = (
    "Middlebury's permission to use and publish the images of its stereo data sets, with a request "
    "to cite (see below)"
)
_MIDDLEBURY_SOURCE = "https://vision.middlebury.edu/stereo/data/scenes2014/"

# The photographs of the base. Sources and licences are those which the functions of skimage.data
# and sklearn/datasets/images/README.txt state. The first is the left picture of the stereo pair.
BASE_PHOTOS: tuple[Photo, ...] = (
    _skimage(
        "motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        _MIDDLEBURY_AUTHORS,
        _MIDDLEBURY_LICENCE,
        _MIDDLEBURY_SOURCE,
    ),
    _skimage(
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "NASA",
        "public domain (no known copyright restrictions)",
        "https://flic.kr/p/r9qvLn",
    ),
    _skimage(
        "camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "Lav Varshney",
        "CC0 1.0",
        "https://github.com/scikit-image/scikit-image/issues/3927",
    ),
    _skimage(
        "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "Stefan van der Walt",
        "CC0 1.0",
        "scikit-image",
    ),
    _skimage(
        "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar",
        "CC0 1.0",
        "scikit-image",
    ),
    _skimage(
        "rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "SpaceX",
        "public domain",
        "https://www.flickr.com/photos/spacexphotos/16511594820/",
    ),
    _skimage(
        "coins.png",
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        "Brooklyn Museum Collection",
        "no known copyright restrictions",
        "https://www.brooklynmuseum.org/opencollection/archives/image/51611",
    ),
    _skimage(
        "brick.png",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        "CC0Textures (Bricks25)",
        "CC0 1.0",
        "https://cc0textures.com/view.php?tex=Bricks25",
    ),
    _skimage(
        "grass.png",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        "linolafett (Grass 01)",
        "CC0 1.0",
        "https://www.deviantart.com/linolafett/art/Grass-01-434853879",
    ),
    _skimage(
        "gravel.png",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "CC0Textures (Gravel04)",
        "CC0 1.0",
        "https://cc0textures.com/view.php?tex=Gravel04",
    ),
    _sklearn(
        "china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "danielbuechele (Flickr)",
        "CC BY 2.0",
        "https://www.flickr.com/photos/danielbuechele/6061409035/",
    ),
    _sklearn(
        "flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "vultilion (Flickr)",
        "CC BY 2.0",
        "https://www.flickr.com/photos/vultilion/6056698931/",
    ),
)
# The right picture of the stereo pair: the queries, and nothing else.
QUERY_PHOTO = _skimage(
    "motorcycle_right.png",
    "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    _MIDDLEBURY_AUTHORS,
    _MIDDLEBURY_LICENCE,
    _MIDDLEBURY_SOURCE,
)
PHOTOS: tuple[Photo, ...] = (*BASE_PHOTOS, QUERY_PHOTO)


@dataclass(frozen=True)
class Features:
    """SIFT features of one photograph, in the order of their keys.

    `vectors` (n, 128) uint8; `keypoints` (n, 4) float32: x, y and size in pixels of the photograph
    as it is shipped, angle in degrees; `keys` n byte strings.
    """

    vectors: np.ndarray
    keypoints: np.ndarray
    keys: list[bytes]

    def take(self, rows: np.ndarray) -> Features:
        """Return the features of these rows."""
        return Features(self.vectors[rows], self.keypoints[rows], [self.keys[i] for i in rows])


def read_photo(photo: Photo) -> bytes:
    """Return the bytes of a photograph from its installed package, after checking its SHA-256."""
    spec = importlib.util.find_spec(photo.module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"package {photo.package} is not installed: pip install '.[photo-sift]' (from the "
            "root of the repository) installs the versions the data set was made with"
        )
    path = Path(spec.origin).parent / photo.path
    if not path.is_file():
        raise InputError(
            f"{path} is missing: {photo.package} "
            f"{importlib.metadata.version(photo.package)} does not contain it; "
            "pip install '.[photo-sift]' installs a version which does"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != photo.sha256:
        raise InputError(
            f"{path} is not the photograph the data set was made from: SHA-256 {found}, expected "
            f"{photo.sha256}; pip install '.[photo-sift]' installs the version with the right one"
        )
    return content


def sift_features(photo: Photo) -> Features:
    """Return all SIFT features of a photograph, ordered by a keyed hash, without duplicates.

    The hash stands for a shuffle that depends on neither numpy's nor OpenCV's version: taking the
    first m features takes a random sample.
    """
    encoded = np.frombuffer(read_photo(photo), dtype=np.uint8)
    colour = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    # Converting here, not in the decoder, keeps PNG and JPEG alike.
    gray = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    large = cv2.resize(gray, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
    points, values = cv2.SIFT_create(**SIFT_PARAMETERS).detectAndCompute(large, None)
    vectors = values.astype(np.uint8)
    if not np.array_equal(vectors, values):
        raise RuntimeError(f"{photo.name}: SIFT values are not whole numbers 0..255")
    # Pixel centres are whole numbers in OpenCV: x_large + 0.5 = ENLARGE * (x + 0.5).
    steps = np.array(
        [
            ((p.pt[0] + 0.5) / ENLARGE - 0.5, (p.pt[1] + 0.5) / ENLARGE - 0.5, p.size / ENLARGE)
            for p in points
        ]
    )
    angles = np.array([[p.angle] for p in points])
    quantized = np.rint(np.hstack([steps, angles]) * KEYPOINT_STEPS).astype("<i4")
    prefix = f"{SEED}:{photo.name}:".encode()
    keys = [
        hashlib.blake2b(prefix + k.tobytes() + v.tobytes(), digest_size=16).digest()
        for k, v in zip(quantized, vectors, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    seen: set[bytes] = set()
    rows = []
    for i in order:
        vector = vectors[i].tobytes()
        if vector not in seen:
            seen.add(vector)
            rows.append(i)
    keypoints = (quantized / KEYPOINT_STEPS).astype(np.float32)
    return Features(vectors, keypoints, keys).take(np.array(rows))


def share_out(available: list[int], total: int) -> list[int]:
    """Return how many features to take of each photograph, `total` in all.

    All of the first (the left picture, so that no correspondence of a query is lost), and of the
    others as equal a number as they have, so that no single texture dominates the base.
    """
    take = [available[0]] + [0] * (len(available) - 1)
    left = total - take[0]
    order = sorted(range(1, len(available)), key=lambda i: (available[i], i))
    for position, i in enumerate(order):
        take[i] = min(available[i], left // (len(order) - position))
        left -= take[i]
    if left or min(take) < 0:
        raise RuntimeError(f"the photographs give {sum(available)} features, {total} are needed")
    return take


def exact_neighbors(base: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest base vectors of every query, by distance, equal ones by number.

    Takes (n, d) and (nq, d) uint8; returns (nq, k) int32 numbers and (nq, k) float32 L2 distances.
    Every squared distance is a whole number far below 2**53: float64 computes it exactly.
    """
    n = len(base)
    b = base.astype(np.float64)
    norms = np.einsum("ij,ij->i", b, b)
    neighbors = np.empty((len(queries), k), dtype=np.int32)
    distances = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), 100):
        q = queries[start : start + 100].astype(np.float64)
        squared = np.einsum("ij,ij->i", q, q)[:, None] + norms - 2.0 * (q @ b.T)
        # One whole number orders by distance first and by number of the base vector second.
        rank = squared.astype(np.int64) * n + np.arange(n)
        best = np.sort(np.partition(rank, k - 1, axis=1)[:, :k], axis=1)
        neighbors[start : start + 100] = best % n
        distances[start : start + 100] = np.sqrt((best // n).astype(np.float64))
    return neighbors, distances


def build() -> tuple[dict[str, np.ndarray], list[dict[str, object]], dict[str, float]]:
    """Compute everything: the arrays by their name in the file, the credits, the figures."""
    cv2.setNumThreads(1)  # one thread: the same sums in the same order
    features = [sift_features(photo) for photo in PHOTOS]
    base_features, query_features = features[:-1], features[-1]

    found = [len(f.vectors) for f in features]
    take = share_out(found[:-1], N_BASE)
    vectors = np.concatenate([f.vectors[:m] for f, m in zip(base_features, take, strict=True)])
    keypoints = np.concatenate([f.keypoints[:m] for f, m in zip(base_features, take, strict=True)])
    photo = np.repeat(np.arange(len(take), dtype=np.uint8), take)
    keys = [key for f, m in zip(base_features, take, strict=True) for key in f.keys[:m]]
    # Mixed, so that the first rows of the base are a random sample of it. By a second hash: the
    # keys themselves are small where few of many features were taken.
    mixed = [hashlib.blake2b(b"mix" + key, digest_size=16).digest() for key in keys]
    order = np.array(sorted(range(len(mixed)), key=mixed.__getitem__))
    vectors, keypoints, photo = vectors[order], keypoints[order], photo[order]
    in_base = {v.tobytes() for v in vectors}
    if len(in_base) != len(vectors):
        raise RuntimeError("two photographs share a descriptor: the base would hold duplicates")

    # A query equal to a base vector would be a trivial one.
    new = [i for i, v in enumerate(query_features.vectors) if v.tobytes() not in in_base]
    query_features = query_features.take(np.array(new[:N_QUERIES]))
    if len(query_features.vectors) < N_QUERIES:
        raise RuntimeError(f"{QUERY_PHOTO.name} gives only {len(new)} queries")

    neighbors, distances = exact_neighbors(vectors, query_features.vectors, K)
    arrays: dict[str, np.ndarray] = {
        "train": vectors,
        "test": query_features.vectors,
        "neighbors": neighbors,
        "distances": distances,
        "train_photo": photo,
        "test_photo": np.full(N_QUERIES, len(PHOTOS) - 1, dtype=np.uint8),
        "train_keypoints": keypoints,
        "test_keypoints": query_features.keypoints,
        "photos": np.array([p.name for p in PHOTOS], dtype="S"),
    }
    credit_rows: list[dict[str, object]] = []
    for p, n_found, n_taken in zip(PHOTOS, found, [*take, N_QUERIES], strict=True):
        credit_rows.append(
            {
                "name": p.name,
                "package": p.package,
                "file": f"{p.module}/{p.path}",
                "sha256": p.sha256,
                "author": p.author,
                "licence": p.licence,
                "source": p.source,
                "found": n_found,
                "taken": n_taken,
                "role": "queries" if p is QUERY_PHOTO else "base",
            }
        )
    nearest = neighbors[:, 0]
    same_line = np.abs(keypoints[nearest, 1] - query_features.keypoints[:, 1]) < SCANLINE_TOLERANCE
    median_1, median_100 = np.median(distances[:, [0, K - 1]], axis=0)
    figures = {
        "median distance of the nearest neighbour": float(median_1),
        "median distance of the 100th neighbour": float(median_100),
        "queries whose nearest neighbour is less than 0.8 times as far as the second": float(
            (distances[:, 0] < 0.8 * distances[:, 1]).mean()
        ),
        "queries whose nearest neighbour lies in the left picture": float(
            (photo[nearest] == 0).mean()
        ),
        "queries whose nearest neighbour lies in the left picture on the same scanline": float(
            ((photo[nearest] == 0) & same_line).mean()
        ),
        "share of the 100 nearest neighbours that lie in the left picture": float(
            (photo[neighbors] == 0).mean()
        ),
    }
    return arrays, credit_rows, figures


def content_sha256(arrays: dict[str, np.ndarray]) -> str:
    """Return one SHA-256 of all arrays: names, types, shapes and values, however compressed."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {a.dtype.str} {a.shape};".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], credit_rows: list[dict]) -> None:
    """Write the arrays to an HDF5 file at `path`, the same bytes every time."""
    # Byte shuffle before gzip helps numbers of several bytes and does nothing for single bytes.
    chunk_rows = {"train": 8_000, "test": 1_000, "neighbors": 1_000, "distances": 1_000}
    with h5py.File(path, "w", libver=("earliest", "v110")) as f:
        f.attrs["distance"] = "euclidean"
        f.attrs["dimension"] = np.int64(arrays["train"].shape[1])
        f.attrs["type"] = "dense"
        f.attrs["point_type"] = "float"
        f.attrs["description"] = (
            "SIFT descriptors of photographs shipped with scikit-image and scikit-learn; queries "
            "from the right picture of a stereo pair, base from its left picture and others"
        )
        f.attrs["content_sha256"] = content_sha256(arrays)
        f.attrs["credits"] = json.dumps(credit_rows, sort_keys=True)
        f.attrs["made_with"] = json.dumps(versions())
        f.attrs["parameters"] = json.dumps(
            {"enlarge": ENLARGE, "seed": SEED, "sift": SIFT_PARAMETERS}, sort_keys=True
        )
        f.attrs["keypoint_columns"] = "x, y, size (pixels of the photograph), angle (degrees)"
        for name, array in arrays.items():
            rows = min(len(array), chunk_rows.get(name, len(array)))
            f.create_dataset(
                name,
                data=array,
                chunks=(rows, *array.shape[1:]),
                compression="gzip",
                compression_opts=9,
                shuffle=array.dtype.kind in "if",
                track_times=False,
            )


def versions() -> dict[str, str]:
    """Return the versions of the libraries the result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def credits_text(
    arrays: dict[str, np.ndarray], credit_rows: list[dict], figures: dict[str, float]
) -> str:
    """Return the text of photo-sift.md."""
    lines = [
        f"# {NAME}: what it is, how it was made, whom to thank",
        "",
        "<!-- Written by scripts/make_photo_sift.py; change it there. -->",
        "",
        f"`{NAME}.hdf5` holds {len(arrays['train']):,} base vectors and {len(arrays['test']):,} "
        "queries: SIFT descriptors (128 whole",
        f"numbers 0..255) of {len(credit_rows)} photographs which scikit-image and scikit-learn "
        "ship, with the exact",
        f"{K} nearest neighbours of every query. The photographs themselves are not in it.",
        "",
        "## Photographs",
        "",
        "Authors and licences are as scikit-image (docstrings of `skimage.data`) and scikit-learn",
        "(`sklearn/datasets/images/README.txt`) state them. Keep these credits with the file.",
        "",
        "| photograph | author | licence | original | used for | descriptors taken, of found |",
        "|---|---|---|---|---|---|",
    ]
    for c in credit_rows:
        lines.append(
            f"| {c['name']} | {c['author']} | {c['licence']} | {c['source']} | {c['role']} | "
            f"{c['taken']:,} of {c['found']:,} |"
        )
    lines += [
        "",
        "* The stereo pair (`motorcycle_left`, `motorcycle_right`) is of the Middlebury 2014 "
        "stereo benchmark:",
        "  D. Scharstein, H. Hirschmüller, Y. Kitajima, G. Krathwohl, N. Nešić, X. Wang and "
        "P. Westling,",
        "  *High-resolution stereo datasets with subpixel-accurate ground truth*, GCPR 2014. "
        "scikit-image states",
        "  no licence for it. Middlebury's data page (https://vision.middlebury.edu/stereo/data/) "
        "permits to use",
        "  and publish all its images and disparity maps, and asks for this citation.",
        "* `china` and `flower` are under the Creative Commons Attribution 2.0 licence",
        "  (https://creativecommons.org/licenses/by/2.0/). What was changed: gray, enlarged, "
        "reduced to descriptors.",
        "  For `flower`, scikit-learn's README repeats the name `danielbuechele` but links the "
        "photograph and the",
        "  pages of `vultilion`; the linked one is credited here.",
        "",
        "## Exact inputs",
        "",
        "| file inside the installed package | SHA-256 |",
        "|---|---|",
    ]
    lines += [f"| `{c['file']}` | `{c['sha256']}` |" for c in credit_rows]
    lines += [
        "",
        "Both packages contain them in their wheels: nothing is downloaded beside the packages.",
        "",
        "## How it was made",
        "",
        f"Each photograph was turned gray, enlarged {ENLARGE} times (bicubic), and given to "
        "OpenCV's SIFT with",
        "`" + ", ".join(f"{k}={v:g}" for k, v in SIFT_PARAMETERS.items()) + "`.",
        "",
        "* **Queries** come from the right picture of the stereo pair only, a random "
        f"{len(arrays['test']):,} of its descriptors.",
        "  No base vector comes from that picture. The left picture shows the same scene from "
        "193 mm further left,",
        "  so many queries have a true counterpart in the base; the others are hard.",
        "* **Base**: all descriptors of the left picture, and of every other photograph a random "
        "sample of as equal a",
        "  number as they have, in random order, so that the first rows are a sample of the whole.",
        "* **Duplicates**: equal descriptors would be kept once; none was found, neither within "
        "the base nor among the",
        "  queries nor between the two.",
        "* **Ground truth**: squared distances are whole numbers, computed without rounding in "
        "float64; equal distances",
        "  are ordered by the number of the base vector.",
        "* **Left out**: what is not a photograph of a scene or surface (drawings, scanned text, "
        "microscopy, `retina`,",
        "  `hubble_deep_field`), `moon` (no licence stated), `clock_motion` (blurred, next to no "
        "keypoints), and all",
        "  pictures which scikit-image downloads on demand.",
        "",
        "Made with " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        f"SHA-256 of the contents (attribute `content_sha256`): `{content_sha256(arrays)}`.",
        "",
        "To make it again, from the root of the repository:",
        "",
        "```sh",
        "python3 -m venv /tmp/photo-sift",
        "/tmp/photo-sift/bin/pip install '.[photo-sift]'",
        "/tmp/photo-sift/bin/python scripts/make_photo_sift.py          # or --check: only compare",
        "```",
        "",
        "The same versions give the same contents; OpenCV's processor-dependent routines are "
        "switched off for that. On",
        "processors other than x86-64, or with other versions, some keypoints may be "
        "rounded differently;",
        "the committed file is the reference.",
        "",
        "## In the file",
        "",
        "| name | shape | type | what |",
        "|---|---|---|---|",
    ]
    what = {
        "train": "base vectors",
        "test": "queries",
        "neighbors": "numbers of the nearest base vectors, nearest first",
        "distances": "their Euclidean distances",
        "train_photo": "photograph of each base vector, an index into `photos`",
        "test_photo": "photograph of each query",
        "train_keypoints": "x, y, size (pixels of the photograph), angle (degrees)",
        "test_keypoints": "the same of the queries",
        "photos": "names of the photographs",
    }
    for name, array in arrays.items():
        shape = " x ".join(map(str, array.shape))
        kind = "bytes" if array.dtype.kind == "S" else str(array.dtype)
        lines.append(f"| `{name}` | {shape} | {kind} | {what[name]} |")
    lines += [
        "",
        "Attributes: ann-benchmarks' `distance`, `dimension`, `type`, `point_type`; and "
        "`credits`, `made_with`,",
        "`parameters` (JSON), `content_sha256`, `description`, `keypoint_columns`.",
        "",
        "| of its queries | |",
        "|---|---|",
    ]
    for label, value in figures.items():
        shown = f"{value:.1f}" if label.startswith("median") else f"{value:.1%}"
        lines.append(f"| {label} | {shown} |")
    return "\n".join(lines) + "\n"


def compare(path: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """Return in words what differs between the file at `path` and freshly made arrays."""
    differences = []
    with h5py.File(path, "r") as f:
        for name in sorted(set(f) | set(arrays)):
            if name not in f or name not in arrays:
                differences.append(f"{name}: only in {'the file' if name in f else 'the new data'}")
                continue
            old, new = f[name][...], arrays[name]
            if old.shape != new.shape or old.dtype != new.dtype:
                differences.append(
                    f"{name}: {old.shape} {old.dtype} in the file, {new.shape} {new.dtype} now"
                )
            elif not np.array_equal(old, new):
                rows = (old != new).reshape(len(old), -1).any(axis=1).sum()
                differences.append(f"{name}: {rows} of {len(old)} rows differ")
    if {"train", "train_photo"} <= {d.split(":")[0] for d in differences}:
        with h5py.File(path, "r") as f:
            old_set = {v.tobytes() for v in f["train"][...]}
        shared = len(old_set & {v.tobytes() for v in arrays["train"]})
        differences.append(f"base vectors in both, in whatever order: {shared}")
    return differences


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Make pqlib/data/photo-sift.hdf5 and its credits.")
    parser.add_argument("--output", type=Path, default=DATA_DIR, help="folder to write to")
    parser.add_argument(
        "--check", action="store_true", help="write nothing: compare with the file that is there"
    )
    args = parser.parse_args(argv)
    target = args.output / f"{NAME}.hdf5"
    try:
        arrays, credit_rows, figures = build()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.check:
        if not target.is_file():
            print(f"error: {target} does not exist", file=sys.stderr)
            return 2
        differences = compare(target, arrays)
        print("\n".join(differences) or f"{target}: same contents")
        return 1 if differences else 0

    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as scratch:
        new = Path(scratch) / target.name
        write_hdf5(new, arrays, credit_rows)
        size = new.stat().st_size
        if size > MAX_BYTES:
            print(f"error: {size:,} bytes, more than {MAX_BYTES:,}", file=sys.stderr)
            return 1
        text = Path(scratch) / f"{NAME}.md"
        text.write_text(credits_text(arrays, credit_rows, figures), encoding="utf-8")
        digest = hashlib.sha256(new.read_bytes()).hexdigest()
        record = Path(scratch) / f"{target.name}.sha256"
        record.write_text(f"{digest}  {target.name}\n", encoding="ascii")
        os.replace(new, target)
        os.replace(record, args.output / record.name)
        os.replace(text, target.with_suffix(".md"))
    print(f"{target}: {size:,} bytes, contents {content_sha256(arrays)[:16]}")
    for label, value in figures.items():
        print(f"  {label}: {value:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
