"""onnxruntime-web, fetched once from the npm registry by npm itself."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from finstill.errors import InputError
from finstill.files import whole_folder

logger = logging.getLogger(__name__)

VERSION = "1.30.0"

FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What a page needs, each with the SHA-256 of its content: what is served to all is what was tested."""


class NoPageError(InputError):
    """A page cannot be made of this student or on this machine, and nothing else is amiss."""


def onnxruntime_web(folder: Path) -> Path:
    """Return the folder of onnxruntime-web's files, fetched into `folder` where they are not there.

    Raises:
        NoPageError: npm is not installed or cannot fetch the package.
        InputError: the package's files are not the ones that were tested.
    """
    own = folder / f"onnxruntime-web-{VERSION}"
    if own.is_dir():
        return own
    npm = shutil.which("npm")
    if npm is None:
        raise NoPageError(
            f"onnxruntime-web {VERSION} comes from npm, which is not installed", remedy="Install Node.js, which has npm"
        )
    with tempfile.TemporaryDirectory() as name, whole_folder(own) as unfinished:
        # Where npm has the package already it asks nobody, and where nobody answers it does not wait for long.
        options = ["--silent", "--prefer-offline", "--fetch-retries=0", "--fetch-timeout=120000"]
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", *options]
        logger.info("page: fetches onnxruntime-web %s by npm", VERSION)
        packed = subprocess.run(command, cwd=name, capture_output=True, text=True)
        archives = list(Path(name).glob("*.tgz"))
        if packed.returncode or len(archives) != 1:
            raise NoPageError(
                f"npm cannot fetch onnxruntime-web {VERSION}: {packed.stderr.strip() or packed.stdout.strip()}",
                remedy="Check the connection and npm's registry",
            )
        with tarfile.open(archives[0]) as archive:
            for file, expected in FILES.items():
                member = archive.extractfile(f"package/dist/{file}")
                content = b"" if member is None else member.read()
                if hashlib.sha256(content).hexdigest() != expected:
                    raise InputError(f"{file} of onnxruntime-web {VERSION} is not the file that was tested")
                (unfinished / file).write_bytes(content)
    return own
