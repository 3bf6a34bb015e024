"""What lies where in a folder of images: its splits, classes and files, before any is opened."""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lrtune.core.counts import some
from lrtune.core.errors import DataError
from lrtune.training.native.data.datasets.decoded import Split
from lrtune.training.native.data.datasets.pixels import formats, suffixes

Labelled = tuple[Path, int]
"""An image file, and the number of its class."""

SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What the folders of splits are called, in any case, and with what others have before or after
it."""
NOT_DATA = (".", "__MACOSX", "@eaDir")
"""How names begin that hide a file or folder, or that systems give to what they add."""

# Why something is left out, to follow its number.
HIDDEN = "hidden"
NO_SPLIT = "beside the splits"
NO_CLASSES = "without class folders"
NO_IMAGES = "without images"
NO_CLASS = "in no class folder"
NO_SUFFIX = "without the suffix of an image"
READ_ALREADY = "linked to what is read already"
UNREADABLE = "unreadable"

LeftOut = dict[str, list[Path]]
"""What is left out, by the reason."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder of images."""

    root: Path
    classes: tuple[str, ...]
    """By their numbers; those of the training images."""
    folders: Mapping[Split, Path]
    """Where the classes of each split lie; that of `train` is `root` where there are no splits."""
    files: Mapping[Split, list[Labelled]]
    """In sorted order."""
    left_out: LeftOut

    @property
    def paths(self) -> list[Path]:
        """The images of all splits."""
        return [path for files in self.files.values() for path, _ in files]


def list_images(root: Path) -> Listing:
    """Finds the splits, classes and images of a folder.

    Raises:
        DataError: there is no such folder, or it is not made of classes; it says all that is
            missing.
    """
    if not root.is_dir():
        raise DataError(
            f"{root.absolute()} must be a folder of images, PATH/train/CLASS/* or PATH/CLASS/*, "
            "but it is not there."
        )
    return _Search(root).listing()


def splits_of(names: Iterable[str]) -> dict[str, Split]:
    """Which of some folders that lie side by side are splits, by their names.

    Such a name is one of `SPLITS`, or has one of them and something before or after it that the
    name of another split has, too (`seg_train` beside `seg_test`). Where all the folders have such
    names, of more than one split, each may have something else (`train_set` beside `test_images`).
    """
    names = list(names)
    words = {word: split for split, words in SPLITS.items() for word in words}
    pattern = re.compile(rf"((?:.*[\W\d_])?)({'|'.join(words)})((?:set)?(?:[\W\d_].*)?)")
    parsed: dict[str, tuple[Split, tuple[str, str]]] = {}
    for name in names:
        separated = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()  # TrainSet, trainImages
        if match := pattern.fullmatch(separated):
            parsed[name] = words[match[2]], (match[1], match[3])
    shared = Counter(affixes for _, affixes in set(parsed.values()))
    num_splits = len({split for split, _ in parsed.values()})
    are_all = len(parsed) == len(names) and num_splits >= min(2, len(names))
    return {
        name: split
        for name, (split, affixes) in parsed.items()
        if affixes == ("", "") or shared[affixes] > 1 or are_all
    }


@dataclass
class _Search:
    """Goes through a folder, and notes what is left out and what is wrong."""

    root: Path
    left_out: defaultdict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    """Folders that were read, by device and number, so that no link leads to them again."""
    listed: dict[Path, list[Path]] = field(default_factory=dict)
    """What the folders hold that were listed."""
    suffixes: frozenset[str] = field(default_factory=lambda: suffixes(formats()))

    def listing(self) -> Listing:
        """All that is found."""
        folders = self._split_folders()
        found = {split: self._class_folders(folder) for split, folder in folders.items()}
        self._raise_any()
        names = tuple(folder.name for folder in found["train"])
        if len(names) < 2:
            rule = "must hold a folder for each of 2 classes or more"
            self._refuse(folders["train"], f"{rule}, but it holds {len(names)}{_named(names)}.")
            self._raise_any()
        for unlabelled in [split for split, classes in found.items() if not classes]:
            self.left_out[NO_CLASSES].append(folders.pop(unlabelled))
            del found[unlabelled]
        for split, folder in folders.items():
            if strange := sorted({own.name for own in found[split]} - set(names)):
                self._refuse(folder, f"must hold classes of train, but got {strange}.")
        images = self._images_below([own for owns in found.values() for own in owns])
        for split, folder in folders.items():
            empty = [own for own in found[split] if not images[own]]
            if empty and (split == "train" or len(empty) == len(found[split])):
                rule = "must hold images (by a suffix that Pillow reads) in each folder"
                names_of_empty = _named(own.name for own in empty)
                self._refuse(folder, f"{rule}, but some have none of their own{names_of_empty}.")
            linked = self.left_out[READ_ALREADY]
            self.left_out[NO_IMAGES] += [own for own in empty if own not in linked]
        self._raise_any()
        numbers = {name: number for number, name in enumerate(names)}
        return Listing(
            root=self.root,
            classes=names,
            folders=folders,
            files={
                split: [(path, numbers[own.name]) for own in owns for path in images[own]]
                for split, owns in found.items()
            },
            left_out={reason: paths for reason, paths in self.left_out.items() if paths},
        )

    def _split_folders(self) -> dict[Split, Path]:
        """The folder of each split; that of `train` is the root where there are no splits."""
        self.seen.add(_identity(self.root))
        below = self._folders(self.root)
        splits = splits_of(folder.name for folder in below)
        by_split = {
            split: [folder for folder in below if splits.get(folder.name) == split]
            for split in SPLITS
        }
        beside = [folder for folder in below if folder.name not in splits]
        holds_folders = any(self._folders(folder) for folder in below if folder not in beside)
        is_class = beside and len(set(splits.values())) == 1 and not holds_folders  # a vehicle
        if not splits or is_class:
            return {"train": self.root}
        self.left_out[NO_SPLIT] += beside
        for split, of_split in by_split.items():
            if len(of_split) > 1:
                rule = f"must hold one folder for {split}"
                given = _named(folder.name for folder in of_split)
                self._refuse(self.root, f"{rule}, but it holds {len(of_split)}{given}.")
        if not by_split["train"]:
            rule = f"must hold a folder for training ({', '.join(SPLITS['train'])})"
            self._refuse(self.root, f"{rule} beside {', '.join(splits)}, but it holds none.")
        self._raise_any()
        folders: dict[Split, Path] = {}
        for split, of_split in by_split.items():
            for folder in map(self._unwrapped, of_split):
                if self._is_new(folder) or split == "train":
                    folders[split] = folder
        return folders

    def _unwrapped(self, folder: Path) -> Path:
        """The folder itself, or the only one in it where both have one name: `train/train`."""
        match self._folders(folder):
            case [inner] if inner.name == folder.name and not inner.is_symlink():
                return self._unwrapped(inner)
        return folder

    def _class_folders(self, folder: Path) -> list[Path]:
        """The folders of the classes; those of splits are none, and are in none."""
        classes = self._folders(folder)
        for holder in (folder, *classes):
            names = [inner.name for inner in self._folders(holder)]
            if len(names) > 1 and len(splits_of(names)) == len(names):
                rule = "must hold classes or their images, as in PATH/train/CLASS/*"
                self._refuse(holder, f"{rule}, but it holds only splits{_named(names)}.")
        loose = [path for path in self._entries(folder) if self._is_image(path)]
        self.left_out[NO_CLASS] += loose
        return classes

    def _images_below(self, classes: list[Path]) -> Mapping[Path, list[Path]]:
        """The images of each folder of a class, at any depth, in sorted order.

        Links are followed last, so that what lies in one class and is linked to from another
        belongs to the first.
        """
        images: dict[Path, list[Path]] = {of: [] for of in classes}
        folders: deque[tuple[Path, Path]] = deque()
        links: deque[tuple[Path, Path]] = deque()
        for of in classes:
            (links if of.is_symlink() else folders).append((of, of))
        while folders or links:
            of, folder = (folders or links).popleft()
            if not self._is_new(folder):
                continue
            for path in self._entries(folder):
                if path.is_dir():
                    (links if path.is_symlink() else folders).append((of, path))
                elif self._is_image(path):
                    images[of].append(path)
                else:
                    self.left_out[NO_SUFFIX].append(path)
        return {of: sorted(paths) for of, paths in images.items()}

    def _is_new(self, folder: Path) -> bool:
        """Whether a folder was not read before; from now on it was."""
        identity = _identity(folder)
        if identity in self.seen:
            self.left_out[READ_ALREADY].append(folder)
            return False
        self.seen.add(identity)
        return True

    def _is_image(self, path: Path) -> bool:
        """Whether it is a file with an image's suffix; a link to nothing is one that is broken."""
        is_file = path.is_file() or (path.is_symlink() and not path.exists())
        return is_file and path.suffix.lower() in self.suffixes

    def _folders(self, folder: Path) -> list[Path]:
        return [path for path in self._entries(folder) if path.is_dir()]

    def _entries(self, folder: Path) -> list[Path]:
        """What a folder holds, in sorted order, without what is hidden."""
        if folder not in self.listed:
            try:
                paths = sorted(folder.iterdir())
            except OSError as error:
                text = f"{folder.absolute()} cannot be listed: {error.strerror}."
                raise DataError(text) from error
            self.left_out[HIDDEN] += [path for path in paths if path.name.startswith(NOT_DATA)]
            self.listed[folder] = [path for path in paths if not path.name.startswith(NOT_DATA)]
        return self.listed[folder]

    def _refuse(self, folder: Path, message: str) -> None:
        self.problems.append(f"{folder.absolute()} {message}")

    def _raise_any(self) -> None:
        if self.problems:
            raise DataError("\n".join(self.problems))


def _named(names: Iterable[str]) -> str:
    """The first of some names after a colon; nothing where there are none."""
    return f": {some(listed)}" if (listed := list(names)) else ""


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
