"""The device side (numpy and onnxruntime) on another processor than this machine's, emulated by QEMU.

An x86 processor runs this Python. An ARM one needs one of its own: Debian's packages and the wheels, unpacked
below `root`, about 350 MB. Needs a network and, where QEMU is not installed, the right to install it.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

ARM: Final = ("cortex-a53", "cortex-a72", "cortex-a76", "max")  # Raspberry Pi 3, 4 and 5; all of ARMv8 and 9
X86: Final = ("Nehalem", "Haswell")  # SSE4; AVX2 without VNNI
WHEELS: Final = ("numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf")
PLATFORMS: Final = (*(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)), "manylinux2014_aarch64")
DEBS: Final = (
    "libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5",
    "libsqlite3-0", "libuuid1", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
)  # fmt: skip
ONNXRUNTIME_WEB: Final = "1.30.0"
# onnxruntime reads this file, and does not understand the one of an x86 processor.
CPUINFO: Final = (
    "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
)


class NotHere(Exception):
    """This machine cannot emulate the processor."""


class Emulated:
    """Runs Python scripts of the device side on other processors.

    Attributes:
        root: Where ARM's Python lies.
    """

    def __init__(self, root: Path) -> None:
        """Install QEMU where it is missing.

        Raises:
            NotHere: It is missing, and cannot be installed.
        """
        self.root = root
        if not shutil.which("qemu-x86_64"):
            _installed(["apt-get", "install", "-y", "-qq", "qemu-user"])

    def run(self, processor: str, arguments: Sequence[str], code: Path) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments.

        Args:
            processor: One of `ARM` or `X86`.
            arguments: Of Python.
            code: Folder from which it imports.

        Raises:
            NotHere: ARM's Python cannot be had.
        """
        if processor in X86:
            places = [str(code), *sys.path]
            command = ["qemu-x86_64", "-cpu", processor, os.path.realpath(sys.executable)]
        else:
            self._arm()
            places = [str(code), str(self.root / "site")]
            root, path = str(self.root / "root"), f"PYTHONPATH={':'.join(places)}"
            command = [
                "qemu-aarch64",
                "-cpu",
                processor,
                "-L",
                root,
                "-E",
                path,
                f"{root}/usr/bin/python3.11",
            ]
        environment = os.environ | {"PYTHONPATH": ":".join(places), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    def _arm(self) -> None:
        """Unpack ARM's Python with numpy and onnxruntime, of the versions that this one has."""
        if (self.root / ".ready").exists():
            return
        debs, wheels, root = (self.root / name for name in ("debs", "wheels", "root"))
        for folder in (debs, wheels, root / "proc", self.root / "site"):
            folder.mkdir(parents=True, exist_ok=True)
        debs.chmod(0o777)  # apt downloads as a user of its own
        _installed(["dpkg", "--add-architecture", "arm64"])
        _installed(["apt-get", "update", "-qq"])
        _installed(["apt-get", "download", "-qq", *(f"{name}:arm64" for name in DEBS)], debs)
        for deb in debs.glob("*.deb"):
            _installed(["dpkg", "-x", str(deb), str(root)])
        wanted = [f"{name}=={version(name)}" for name in WHEELS]
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        download = ["download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
        pip = [sys.executable, "-m", "pip", *download, "--platform", "any", *platforms]
        _installed([*pip, "-d", str(wheels), *wanted])
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(self.root / "site")
        (root / "proc/cpuinfo").write_text(CPUINFO)
        (self.root / ".ready").touch()


class Web:
    """Runs files under onnxruntime-web, with node."""

    def __init__(self, root: Path) -> None:
        """Install onnxruntime-web, about 100 MB.

        Raises:
            NotHere: There is no node, or no network.
        """
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "node_modules/onnxruntime-web").exists():
            _installed(["npm", "install", "--silent", f"onnxruntime-web@{ONNXRUNTIME_WEB}"], root)

    def run(self, script: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a script, which imports from where onnxruntime-web lies."""
        shutil.copyfile(script, self.root / script.name)
        command = ["node", str(self.root / script.name), *arguments]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)


def _installed(command: list[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise NotHere(f"{' '.join(command[:3])}: {said.strip().splitlines()[-1]}") from None
