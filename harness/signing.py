"""Who built what lies in a cache: a secret of the user's own, and signatures made with it.

A manifest says what was written and can be written by anybody. What this user built on this machine bears a signature that only
the user's key makes; the key lies where nobody else may read it, and not beside what it signs.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

_KEY_BYTES = 32
_PRIVATE = 0o600


def user_key(path: Path) -> bytes:
    """The key in the file ``path``, which is made where there is none that only its user can read.

    Where it cannot be kept, a key for this process alone: what was signed before is then nobody's.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _private(path):
            path.unlink(missing_ok=True)
            _make(path)
        found = path.read_bytes()
        if len(found) == _KEY_BYTES:
            return found
    return secrets.token_bytes(_KEY_BYTES)


def signature(key: bytes, name: str, content: bytes) -> str:
    """The signature, in hexadecimal, of what lies under a name: moved to another name, it is not signed."""
    return hmac.new(key, f"{name}\0".encode() + content, sha256).hexdigest()


def is_signed(key: bytes, name: str, content: bytes, given: str) -> bool:
    """Whether ``given`` is the signature."""
    return hmac.compare_digest(signature(key, name, content).encode(), given.strip().encode())


def _make(path: Path) -> None:
    """All of it or nothing, and whoever is first: two runs may begin at once."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with suppress(FileExistsError):
            path.hardlink_to(part)
    finally:
        part.unlink(missing_ok=True)


def _private(path: Path) -> bool:
    """Whether there is a key that nobody else could have read or put there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return mine and stat.S_ISREG(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077 and found.st_size == _KEY_BYTES
