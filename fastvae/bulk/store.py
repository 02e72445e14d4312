"""The few calls that the protocol makes of an object store, through fsspec, and files that are uploaded by them."""

from __future__ import annotations

import contextlib
import errno
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from fastvae.bulk.disk import Disk, NewFile, NewTree, Written, sha256_of
from fastvae.errors import InputError, UnsupportedError
from fastvae.files import needs

# Calls at once where there are many small objects.
AT_ONCE: Final = 16
# What a store says that has no conditional put, or whose condition failed without a word about which.
NOT_IMPLEMENTED, CONDITION_FAILED = errno.ENOSYS, errno.EINVAL

# How packages say so: most of them, and adlfs.
CONDITIONS: Final[Sequence[Mapping[str, Any]]] = ({"mode": "create"}, {"overwrite": False})

T = TypeVar("T")
R = TypeVar("R")


class Store:
    """Objects under a URL that fsspec understands. Names are relative to it; each call raises OSError.

    They are methods of one object so that a test can let each of them fail, or the driver die at it.

    Raises:
        UnsupportedError: fsspec, or the package for this kind of URL, is not installed, or has no conditional put.
        InputError: no such kind of URL, or one without a bucket.
    """

    def __init__(self, url: str) -> None:
        with needs("fsspec", "URLs", "bulk"):
            import fsspec
        try:
            # A listing from before this process's or another's last put would be a lie.
            self._files, root = fsspec.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise UnsupportedError(f"{url}: needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}") from error
        self._root = root.rstrip("/")
        if not self._root.strip("/"):
            raise InputError(f"{url}: expected a bucket and a prefix, as in s3://bucket/samples")
        self._condition = _condition(url, self._files, fsspec.AbstractFileSystem)

    @property
    def shared(self) -> bool:
        """Whether other processes see the same objects."""
        return "memory" not in _protocols(self._files)

    def list(self) -> dict[str, int]:
        """Names and bytes of all objects."""
        found = _called(self._files.find, self._root, detail=True)
        names = ((path[len(self._root) :].strip("/"), info) for path, info in found.items())
        return {name: int(info["size"]) for name, info in names if name and info["type"] == "file"}

    def get(self, name: str) -> bytes:
        """An object's bytes."""
        return bytes(_called(self._files.cat_file, self._key(name)))

    def download(self, name: str, target: Path) -> None:
        """Write an object to a local file."""
        _called(self._files.get_file, self._key(name), str(target))

    def create(self, name: str, source: Path) -> bool:
        """Make an object of a local file, in one step, unless there is one; whether there was none.

        Where the server cannot do that in one step, look first.
        """
        try:
            _called(self._files.put_file, str(source), self._key(name), **self._condition)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == CONDITION_FAILED:
                return False
            if error.errno != NOT_IMPLEMENTED:
                raise
        if _called(self._files.exists, self._key(name)):
            return False
        self.put(name, source)
        return True

    def put(self, name: str, source: Path) -> None:
        """Make an object of a local file, in place of what there is."""
        _called(self._files.put_file, str(source), self._key(name))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            _called(self._files.rm_file, self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"


class Upload(NewFile):
    """A file that becomes the object ``name`` when it is published; until then it is a local one."""

    def __init__(self, store: Store, temporary: Path, name: str) -> None:
        super().__init__(Disk(), temporary, temporary.parent, name)
        self._store = store

    def publish(self) -> Written:
        """Upload the file."""
        self.close()
        written = Written(self._name, self.size, self._hash.hexdigest())
        upload(self._store, self._name, self._temporary, written.sha256)
        self._temporary.unlink()
        return written


class UploadTree(NewTree):
    """Many small files that become objects below ``name`` when they are published."""

    def __init__(self, store: Store, temporary: Path, name: str) -> None:
        super().__init__(Disk(), temporary, temporary.parent, name)
        self._store = store

    def publish(self) -> Written:
        """Upload the files."""

        def one(file: str) -> None:
            path = self._temporary / file
            upload(self._store, self._name + file, path, sha256_of(path))

        at_once(one, self._names)
        self.discard()
        return Written(self._name, self.size, self._hash.hexdigest())


def upload(store: Store, name: str, source: Path, sha256: str) -> None:
    """Make the object ``name`` the bytes of a file: one that is there, left by a crash, is kept if it is the same."""
    if store.create(name, source):
        return
    with scratch() as folder:
        store.download(name, folder / "there")
        same = sha256_of(folder / "there") == sha256
    if not same:
        store.put(name, source)


def at_once(call: Callable[[T], R], values: Sequence[T]) -> Sequence[R]:
    """``call`` of each value, several at a time, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, values))


@contextlib.contextmanager
def scratch(prefix: str = "fastvae-") -> Iterator[Path]:
    """A local folder for temporary files."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _condition(url: str, files: Any, plain: Any) -> Mapping[str, Any]:
    """The argument of a file system's put that makes it depend on there being no such object.

    Raises:
        UnsupportedError: there is none, or puts are the ``plain`` class's own, which shows a file while it is written.
    """
    parameters = inspect.signature(files.put_file).parameters
    found = next((argument for argument in CONDITIONS if argument.keys() <= parameters.keys()), None)
    in_steps = getattr(files.put_file, "__func__", None) is plain.put_file and "memory" not in _protocols(files)
    if found is None or in_steps:
        raise UnsupportedError(
            f"{url}: {type(files).__name__} cannot put a file whole, on the condition that there is none; "
            "use s3://, gs:// or az:// with an up-to-date package, or mount it as a folder"
        )
    return found


def _protocols(files: Any) -> Sequence[str]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _called(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call of fsspec's returns; its errors as OSError, which those of the libraries behind it need not be."""
    try:
        return call(*arguments, **options)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
