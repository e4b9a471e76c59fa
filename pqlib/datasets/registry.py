"""The data sets that are known by name, and where each is looked for."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

DATA_VARIABLE = "PQLIB_DATA_DIR"
CACHE_VARIABLE = "PQLIB_CACHE"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is here.

    Attributes
    ----------
    name : short name, what ``load_dataset`` takes
    file : file name, at its source and on disk
    n_train, n_test, dimension : shapes
    metric : "euclidean" or "angular", of the file
    megabytes : size of the download, rounded; 0: comes with the package
    title, source, licence : what it is, who made it, under which terms
    image_shape : (rows, columns) where a vector is an image
    folder_url : address of the folder with the file, where that is not ann-benchmarks' own
    """

    name: str
    file: str
    n_train: int
    n_test: int
    dimension: int
    metric: str
    megabytes: int
    title: str
    source: str
    licence: str
    image_shape: tuple[int, int] | None = None
    folder_url: str = ""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names that ``lookup`` takes for it."""
        return (self.name, Path(self.file).stem, self.file)

    @property
    def embedded(self) -> bool:
        """Whether the file comes with the package."""
        return self.megabytes == 0


_TEXMEX = "Jegou, Douze, Schmid 2011; http://corpus-texmex.irisa.fr/", "CC0"
_MNIST = "LeCun, Cortes, Burges; http://yann.lecun.com/exdb/mnist/", "CC BY-SA 3.0"
_ALL = (
    DatasetInfo(
        "photo-sift", "photo-sift.hdf5", 40_000, 1_000, 128, "euclidean", 0,
        "SIFT descriptors of photographs; queries: the right picture of a stereo pair, whose left "
        "one is in the base",
        "made by scripts/make_photo_sift.py",
        "public domain or credited: pqlib/data/photo-sift.md",
    ),
    DatasetInfo(
        "gloss-minilm", "gloss-minilm.hdf5", 12_000, 1_000, 384, "angular", 0,
        "transformer embeddings of WordNet's definitions; queries: example sentences of the same "
        "words",
        "made by scripts/make_gloss_minilm.py",
        "WordNet 3.1's and Apache-2.0: pqlib/data/gloss-minilm.md",
    ),
    DatasetInfo(
        "fashion-mnist", "fashion-mnist-784-euclidean.hdf5", 60_000, 10_000, 784, "euclidean", 217,
        "Fashion-MNIST images of clothing",
        "Xiao, Rasul, Vollgraf 2017; https://github.com/zalandoresearch/fashion-mnist",
        "MIT",
        image_shape=(28, 28),
    ),
    DatasetInfo(
        "sift", "sift-128-euclidean.hdf5", 1_000_000, 10_000, 128, "euclidean", 501,
        "SIFT1M descriptors", *_TEXMEX,
    ),
    DatasetInfo(
        "gist", "gist-960-euclidean.hdf5", 1_000_000, 1_000, 960, "euclidean", 3_600,
        "GIST1M descriptors", *_TEXMEX,
    ),
    DatasetInfo(
        "mnist", "mnist-784-euclidean.hdf5", 60_000, 10_000, 784, "euclidean", 217,
        "MNIST images of handwritten digits", *_MNIST, image_shape=(28, 28),
    ),
    *(
        DatasetInfo(
            f"glove-{d}", f"glove-{d}-angular.hdf5", 1_183_514, 10_000, d, "angular", megabytes,
            f"GloVe word vectors of Twitter, {d} dimensions",
            "Pennington, Socher, Manning 2014; https://nlp.stanford.edu/projects/glove/",
            "Public Domain Dedication and License 1.0",
        )
        for d, megabytes in ((25, 121), (50, 235), (100, 463), (200, 918))
    ),
    DatasetInfo(
        "nytimes", "nytimes-256-angular.hdf5", 290_000, 10_000, 256, "angular", 301,
        "New York Times articles, bag of words projected to 256 dimensions",
        "UCI Machine Learning Repository, Bag of Words",
        "CC BY 4.0",
    ),
    DatasetInfo(
        "deep", "deep-image-96-angular.hdf5", 9_990_000, 10_000, 96, "angular", 3_600,
        "DEEP image descriptors",
        "Babenko, Lempitsky 2016; http://sites.skoltech.ru/compvision/noimi/",
        "not stated by the source",
    ),
    *(
        DatasetInfo(
            f"coco-{short}", f"coco-{short}-512-angular.hdf5", 113_287, 10_000, 512, "angular", 136,
            f"CLIP features of COCO images, queried by {queries}",
            "F. Carrara, https://github.com/fabiocarrara/str-encoders; https://cocodataset.org/",
            "COCO: annotations CC BY 4.0, images under Flickr's terms; features: not stated",
            folder_url="https://github.com/fabiocarrara/str-encoders/releases/download/v0.1.3",
        )
        for short, queries in (("i2i", "other images"), ("t2i", "their captions"))
    ),
)  # fmt: skip
REGISTRY: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
"""Short name to what is known. ann-benchmarks' inner-product and set-similarity files are left
out: this study is of Euclidean distance, and unit vectors' angles can be had through it."""


def is_known(name: str) -> bool:
    """Tell whether a data set has that name."""
    return any(name in info.aliases for info in REGISTRY.values())


def lookup(name: str) -> DatasetInfo:
    """Return what is known of a data set by its short name or its file's name.

    ValueError when no data set has that name; near matches are suggested.
    """
    for info in REGISTRY.values():
        if name in info.aliases:
            return info
    known = [alias for info in REGISTRY.values() for alias in info.aliases[:2]]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise ValueError(
        f"dataset={name!r}: expected one of {', '.join(REGISTRY)}, or the path of a file."
        + (f" Did you mean {' or '.join(near)}?" if near else "")
        + " A path is told by its ending, such as .hdf5, .fvecs or .npy."
    )


def cache_folder() -> Path:
    """Return the folder for downloads and computed ground truth; it may not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(user_cache_dir("pqlib"))


def locate(name: str) -> Path | None:
    """Return the file of a registered data set if it is on this machine, else None.

    Looked for in the package (embedded ones), the folders of PQLIB_DATA_DIR and the cache.
    ValueError when the name is unknown, FileNotFoundError when PQLIB_DATA_DIR names no folder.
    """
    info = lookup(name)
    named = filter(None, os.environ.get(DATA_VARIABLE, "").split(os.pathsep))
    folders = [Path(part).expanduser() for part in named]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{DATA_VARIABLE}={str(folder)!r}: expected an existing folder. Correct the "
                "variable or unset it."
            )
    if info.embedded:
        folders = [Path(__file__).parents[1] / "data"]
    else:
        folders.append(cache_folder())
    return next((folder / info.file for folder in folders if (folder / info.file).is_file()), None)
