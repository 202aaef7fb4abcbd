"""Files below a folder: a path of this machine, or a mounted claim."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from finetune_api.uris import Uri

from finetune_trainer.errors import BadConfig, MissingInput, OutputNotWritable

_PART = ".part-"


def claim_folder(location: Uri) -> Path:
    """The folder of a `pvc://claim/path` location: claims are mounted below `FINETUNE_PVC_ROOT` (default `/pvc`).

    Raises:
        BadConfig: the claim is not mounted.
    """
    claim = Path(os.environ.get("FINETUNE_PVC_ROOT", "/pvc")) / location.authority
    if not claim.is_dir():
        raise BadConfig(f"{location}: the claim {location.authority} is not mounted here; pvc:// is for a cluster, and "
                        "with `finetune run` write file:// instead")
    return claim / location.path


class LocalStorage:
    """Storage in a folder. Files appear whole, by renaming: a crash leaves at most a `.part-` file."""

    def __init__(self, root: Uri, folder: Path) -> None:
        self.root = root
        self.folder = folder

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file."""
        with self._partial(key) as (partial, target):
            shutil.copyfile(path, partial)
            _finish(partial).replace(target)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small file."""
        with self._partial(key) as (partial, target):
            partial.write_bytes(content)
            _finish(partial).replace(target)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small file only if the key is free."""
        with self._partial(key) as (partial, target):
            partial.write_bytes(content)
            try:
                # Unlike a rename, a link never replaces what is there.
                os.link(_finish(partial), target)
            except FileExistsError:
                return False
        return True

    def get_bytes(self, key: str) -> bytes | None:
        """A small file's content, or None where it isn't there."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise MissingInput(f"{self._place(key)} can't be read: {error.strerror}") from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file to a local path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}{_PART}{os.getpid()}")
        try:
            shutil.copyfile(self._path(key), partial)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            reason = "no such file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.strerror
            raise MissingInput(f"{self._place(key)}: {reason}") from error

    def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted."""
        top = self.folder / prefix.rpartition("/")[0]
        found = (path.relative_to(self.folder).as_posix() for path in top.rglob("*")
                 if path.is_file() and _PART not in path.name)
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, keys: list[str]) -> None:
        """Remove files, and the folders that they leave empty."""
        for key in keys:
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
                for folder in path.parents:
                    if folder == self.folder or not folder.is_relative_to(self.folder):
                        break
                    folder.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR):
                    raise OutputNotWritable(f"{self._place(key)} can't be removed: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise BadConfig(f"{key!r} is not a path below {self.root}")
        return self.folder / key

    def _place(self, key: str) -> str:
        return f"{str(self.root).rstrip('/')}/{key}"

    @contextmanager
    def _partial(self, key: str) -> Iterator[tuple[Path, Path]]:
        """A fresh partial file beside the target, and the target; what is left of the partial file goes at the end."""
        target = self._path(key)
        partial: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=_PART)
            os.close(handle)
            partial = Path(name)
            yield partial, target
        except OSError as error:
            hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise OutputNotWritable(f"{self._place(key)} can't be written: {error.strerror}{hint}") from error
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)


def _finish(partial: Path) -> Path:
    """A written file, readable like any other, and on the disk rather than in a buffer."""
    partial.chmod(0o644)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    return partial
