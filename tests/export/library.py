"""The few calls of `huggingface_hub` that are used, answered by a repository in memory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qmu_edge.export.push import SILENT

HEAD = 40 * "0"


class NoSuch(Exception):
    """What the library raises of an answer: its text quotes an address with a key in it."""

    def __init__(self, status: int) -> None:
        """The answer had this status."""
        super().__init__("https://hub/x?Signature=secret\x1b[2J")
        self.response = SimpleNamespace(status_code=status)


class Library:
    """A repository, what was asked of it, and what goes wrong."""

    def __init__(self) -> None:
        """An empty repository that everybody sees."""
        self.files: dict[str, bytes] = {".gitattributes": b"x"}
        self.calls: list[str] = []
        self.given: dict[str, Any] = {}
        self.private: bool | None = False
        self.commits = 0
        self.wrong: dict[str, Exception] = {}
        self.left_out: set[str] = set()
        self.oid: Any = None

    def called(self, call: str) -> None:
        """Note a call, which may go wrong."""
        self.calls.append(call)
        if call in self.wrong:
            raise self.wrong[call]

    def info(self, repository: str, *, revision: str | None, timeout: float) -> Any:
        """`HfApi.model_info`."""
        self.called("model_info")
        self.given["repository"] = repository
        names = [SimpleNamespace(rfilename=name) for name in self.files]
        return SimpleNamespace(sha=self.head(), siblings=names, private=self.private)

    def commit(
        self, repository: str, operations: list[Any], *, commit_message: str, parent_commit: str
    ) -> Any:
        """`HfApi.create_commit`."""
        self.called("create_commit")
        assert parent_commit == self.head()
        for operation in operations:
            if operation.data is None:
                del self.files[operation.path]
            elif operation.path not in self.left_out:
                self.files[operation.path] = operation.data
        self.commits += 1
        return SimpleNamespace(oid=self.oid or self.head())

    def head(self) -> str:
        """Hash of the newest commit."""
        return f"{self.commits:040x}"

    def module(self) -> ModuleType:
        """What is imported."""
        found, constants = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.constants")

        def api(**given: Any) -> Any:
            self.given |= given
            return SimpleNamespace(model_info=self.info, create_commit=self.commit)

        def add(path_in_repo: str, path_or_fileobj: bytes) -> Any:
            return SimpleNamespace(path=path_in_repo, data=path_or_fileobj)

        def delete(path_in_repo: str, *, is_folder: bool) -> Any:
            return SimpleNamespace(path=path_in_repo, data=None)

        vars(found).update(
            HfApi=api, CommitOperationAdd=add, CommitOperationDelete=delete, constants=constants
        )
        vars(constants).update(HF_HUB_DISABLE_TELEMETRY=True, HF_HUB_DISABLE_XET=True, HF_DEBUG=False)
        return found


@contextmanager
def installed() -> Iterator[Library]:
    """The library, as if it were installed, and a token; the environment is put back afterwards."""
    library = Library()
    module = library.module()
    with pytest.MonkeyPatch.context() as patch:
        for name in (*SILENT, "HF_ENDPOINT"):
            patch.setenv(name, "")  # so that what is set is put back
            patch.delenv(name)
        patch.setenv("HF_TOKEN", "hf_thisIsTheToken")
        patch.setitem(sys.modules, "huggingface_hub", module)
        patch.setitem(sys.modules, "huggingface_hub.constants", module.constants)
        yield library
