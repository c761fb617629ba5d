"""The policy of Kata's agent: which requests from outside the guest it serves.

Sources: Kata's rootfs.sh (setup_rootfs) for the place and the link, its docs/how-to/how-to-use-the-kata-agent-policy.md
for what a policy says.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osbuilder.errors import UsageError
from osbuilder.rootfs.agent import copy_verified
from osbuilder.step import NOT_IN_KEY
from osbuilder.tree.entry import Kind

if TYPE_CHECKING:
    from osbuilder.step import Job, Json
    from osbuilder.tree import Tree

POLICY: Final = "policy"
NAME: Final = "name"
FOLDER: Final = "etc/kata-opa"
DEFAULT: Final = "default-policy.rego"
"""What the agent reads."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """Take a policy from a file of this host; `sha256` (hex) is what it holds. Leaves it, and its name as a text."""

    sha256: str
    name: str
    path: Path = dataclasses.field(metadata=NOT_IN_KEY)

    @classmethod
    def of_path(cls, path: Path) -> PolicyFile:
        """Return the action for a file. Raises UsageError for one that is missing, or no text."""
        hint = "Name a text in Rego, the language of Open Policy Agent."
        if not path.is_file():
            raise UsageError(f"--agent-policy {path}: expected a file, it is {_what(path)}", hint=hint)
        try:
            content = path.read_bytes()
            content.decode("utf-8")
        except OSError as error:
            raise UsageError(f"--agent-policy {path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise UsageError(f"--agent-policy {path}: expected a text in UTF-8, got other bytes", hint=hint) from None
        return cls(sha256=hashlib.sha256(content).hexdigest(), name=path.name, path=path)

    def describe(self) -> tuple[str, ...]:
        return (f"copy {self.path} (sha256 {self.sha256})",)

    def run(self, job: Job) -> Mapping[str, Json]:
        copy_verified(self.path, job.out / POLICY, self.sha256)
        (job.out / NAME).write_text(self.name, encoding="utf-8")
        return {"name": self.name}


def install_policy(tree: Tree, name: str, content: bytes) -> None:
    """Make a text the policy of a tree's agent, in the place of the one that it has, which goes."""
    link = f"{FOLDER}/{DEFAULT}"
    old = tree.find(link)
    if old is not None:
        if old.kind is Kind.SYMLINK and "/" not in old.target and tree.exists(f"{FOLDER}/{old.target}"):
            tree.remove(f"{FOLDER}/{old.target}")
        tree.remove(link)
    tree.add_file(f"{FOLDER}/{name}", content, mode=0o644, parents_mode=0o755, replace=True)
    if name != DEFAULT:
        tree.add_symlink(link, name)


def _what(path: Path) -> str:
    return "a folder" if path.is_dir() else "missing"
