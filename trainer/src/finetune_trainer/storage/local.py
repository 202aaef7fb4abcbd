"""Storage in a folder: a path of this machine, or a mounted claim."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.messages import PublishedFile
from finetune_api.values.paths import below
from finetune_api.values.uris import Uri

from finetune_trainer.errors import BadConfig, MissingInput, OutputNotWritable
from finetune_trainer.storage.digests import file_digest
from finetune_trainer.storage.interface import require_small

_PART = ".part-"
_RACES = 20
_HINTS = {
    errno.ENOSPC: "; free some space",
    errno.EDQUOT: "; free some space",
    errno.EROFS: "; it is mounted read-only",
    errno.EACCES: f"; the user {os.getuid()} may not write there",
    errno.EPERM: f"; the user {os.getuid()} may not write there",
    errno.ENOTDIR: "; a file stands where a folder is needed",
    errno.EEXIST: "; a file stands where a folder is needed",
}
_UNKNOWN_TO_FILESYSTEM = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def mounted_claim(location: Uri) -> Path:
    """The folder where the claim of a `pvc://` location is mounted: below `FINETUNE_PVC_ROOT` (default `/pvc`).

    Raises:
        BadConfig: the claim is not mounted.
    """
    claim = Path(os.environ.get("FINETUNE_PVC_ROOT", "/pvc")) / location.authority
    if not claim.is_dir():
        raise BadConfig(f"{location}: the claim {location.authority} is not mounted at {claim}. pvc:// is for a "
                        "cluster; with `finetune run` write file:// instead")
    return claim


class LocalStorage:
    """Storage in a folder. A file is written beside its key and renamed: a crash leaves at most a `.part-` file."""

    def __init__(self, root: Uri, folder: Path, boundary: Path | None = None) -> None:
        """Open a folder. It is created when something is written.

        Args:
            root: the folder's location, for messages.
            folder: its path.
            boundary: the folder that no link may lead out of, such as the whole claim; by default `folder`.
        """
        self.root = root
        self.folder = folder
        self._boundary = boundary or folder

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file."""
        with self._partial(key) as (partial, target):
            shutil.copyfile(path, partial)
            _flush_file(partial).replace(target)
            _flush_folder(target.parent)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""
        with self._partial(key) as (partial, target):
            partial.write_bytes(content)
            _flush_file(partial).replace(target)
            _flush_folder(target.parent)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free."""
        with self._partial(key) as (partial, target):
            partial.write_bytes(content)
            try:
                # Unlike a rename, a link never replaces a file.
                os.link(_flush_file(partial), target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _UNKNOWN_TO_FILESYSTEM:
                    raise
                return _create_without_link(target, content)
            _flush_folder(target.parent)
        return True

    def get_bytes(self, key: str) -> bytes | None:
        """The content of a small file; None where it does not exist."""
        try:
            source = self._source(key)
            require_small(source.stat().st_size, self._place(key))
            return source.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MissingInput(f"{self._place(key)} can't be read: {error.strerror}") from error

    def get_start(self, key: str, count: int) -> tuple[bytes, int]:
        """The first bytes of a file, and its size in bytes."""
        try:
            with self._source(key).open("rb") as file:
                return file.read(count), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise MissingInput(f"{self._place(key)} can't be read: {error.strerror}") from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path."""
        source = self._source(key)
        partial = path.with_name(f"{path.name}{_PART}{os.getpid()}")
        try:
            if not source.is_file():
                raise MissingInput(f"{self._place(key)}: no such file")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise MissingInput(f"{self._place(key)} can't be copied to {path.parent}: {error.strerror}") from error

    def digest(self, key: str) -> PublishedFile | None:
        """The digest and the size of a stored file."""
        try:
            source = self._source(key)
            return PublishedFile(path=key, sha256=file_digest(source), size_bytes=source.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MissingInput(f"{self._place(key)} can't be read: {error.strerror}") from error

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted. Links that lead out of the boundary are left out."""
        top = self.folder / prefix.rpartition("/")[0]
        found = (path.relative_to(self.folder).as_posix() for path in top.rglob("*")
                 if not path.name.startswith(_PART))
        return sorted(key for key in found if key.startswith(prefix) and self._can_be_read(key))

    def delete(self, keys: list[str]) -> None:
        """Remove files, and the folders that become empty."""
        for key in keys:
            path = self._target(key)
            try:
                path.unlink(missing_ok=True)
                for folder in path.parents:
                    if folder == self.folder or not folder.is_relative_to(self.folder):
                        break
                    folder.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR):
                    raise OutputNotWritable(f"{self._place(key)} can't be removed: {error.strerror}"
                                            f"{_HINTS.get(error.errno or 0, '')}") from error

    def _source(self, key: str) -> Path:
        """The path to read. A link is followed, and may not lead out of the boundary."""
        return self._below(key, follow=True)

    def _target(self, key: str) -> Path:
        """The path to write. A link at the path is replaced; its folder may not lead out of the boundary."""
        return self._below(key, follow=False)

    def _below(self, key: str, follow: bool) -> Path:
        try:
            return below(self.folder, key, self._boundary, follow)
        except ValueError as error:
            raise BadConfig(f"{self.root}: {error}") from error

    def _can_be_read(self, key: str) -> bool:
        try:
            return self._source(key).is_file()
        except BadConfig:
            return False

    def _place(self, key: str) -> str:
        return f"{str(self.root).rstrip('/')}/{key}"

    @contextmanager
    def _partial(self, key: str) -> Iterator[tuple[Path, Path]]:
        """A new partial file beside the target, and the target. A partial file that remains is removed at the end."""
        target = self._target(key)
        partial: Path | None = None
        try:
            partial = _partial_file(target.parent)
            yield partial, target
        except OSError as error:
            raise OutputNotWritable(f"{self._place(key)} can't be written: {error.strerror}"
                                    f"{_HINTS.get(error.errno or 0, '')}") from error
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)


def _partial_file(folder: Path) -> Path:
    """A new empty file in `folder`, which is created."""
    for race in range(_RACES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=_PART)
        except (FileNotFoundError, FileExistsError):
            # Another writer has just removed the empty folder (mkdir reports "exists" when it loses the race).
            if race == _RACES - 1:
                raise
        else:
            os.close(handle)
            return Path(name)
    raise AssertionError("the last race raises")


def _flush_file(partial: Path) -> Path:
    """Make a written file readable for others, and flush it to the disk."""
    partial.chmod(0o644)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    return partial


def _flush_folder(folder: Path) -> None:
    """Flush a rename to the disk, so that a manifest never survives a power failure without its files."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        # Another process has removed the file, and the folder with it.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNKNOWN_TO_FILESYSTEM:
            raise
    finally:
        os.close(handle)


def _create_without_link(target: Path, content: bytes) -> bool:
    """Create a file on a file system without hard links (SMB shares, some FUSE mounts). One writer wins.

    A reader may see an empty file until the content is written. A failed write leaves no file.
    """
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True
