"""Archives of bundles: plain members are unpacked; whatever else a tar file can hold is refused at once."""

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.verify import archive
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.archive import BLOCK, Archive
from tests.verify import files
from tests.verify.bundles import write


def _block(
    name: bytes, data: bytes = b"x", kind: bytes = b"0", size: bytes = b"", prefix: bytes = b""
) -> bytes:
    """A member whose checksum holds."""
    header = bytearray(BLOCK)
    header[: len(name)], header[100:108], header[156:157] = name, b"0000644\0", kind
    header[124:136] = size or b"%011o\0" % len(data)
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[345 : 345 + len(prefix)] = prefix
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def _with_tarfile(name: str, kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/hostname"
        member.size = 1 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"x"))
    return buffer.getvalue()


def _sparse() -> bytes:
    """A kilobyte that would unpack to a gigabyte of zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = 1
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**9)}
        tar.addfile(member, io.BytesIO(b"{"))
    return buffer.getvalue()


HOSTILE = {
    "empty": (b"", "cut off"),
    "text": (b"not a tar" * 100, "no tar archive"),
    "gzip": (b"\x1f\x8b" + bytes(600), "compressed"),
    "pax of digits": (_block(b"x", b"1" * 82_000, b"x") + END, "an extended header"),
    "chained pax": (_block(b"x", b"10 aaa=bb\n", b"x") * 1200 + END, "an extended header"),
    "global pax": (_block(b"x", b"10 aaa=bb\n", b"g") + END, "an extended header"),
    "GNU long name": (_block(b"././@LongLink", b"a" * 99, b"L") + END, "an extended header"),
    "GNU sparse": (_block(b"a", b"x", b"S") + END, "a sparse file"),
    "pax sparse": (_sparse(), "an extended header"),
    "a base-256 size": (_block(b"a", size=b"\x80" + bytes(7) + b"\0\0\0\1") + END, "not octal"),
    "a negative size": (_block(b"a", size=b"-0000000001\0") + END, "not octal"),
    "no size": (_block(b"a", size=b" " * 12) + END, "not octal"),
    "a huge size": (_block(b"a", size=b"77777777777\0") + END, "bytes, allowed"),
    "a size behind the end": (_block(b"a", size=b"00000100000\0") + END, "cut off in a"),
    "a wrong checksum": (b"b" + _block(b"a")[1:] + END, "checksum does not hold"),
    "a prefix": (_block(b"a", prefix=b"../../x") + END, "the name is not allowed"),
    "outside": (_with_tarfile("../outside"), "'../outside': the name is not allowed"),
    "from the root": (_with_tarfile("/tmp/outside"), "the name is not allowed"),
    "hidden": (_with_tarfile(".a"), "the name is not allowed"),
    "a terminal's words": (_block(b"\x1b[2Ja") + END, "the name is not allowed"),
    "a link": (_with_tarfile("link", tarfile.SYMTYPE), "is a link"),
    "a hard link": (_with_tarfile("hard", tarfile.LNKTYPE), "is a hard link"),
    "a device": (_with_tarfile("device", tarfile.CHRTYPE), "is a device"),
    "a pipe": (_with_tarfile("pipe", tarfile.FIFOTYPE), "is a pipe"),
    "a folder": (_with_tarfile("folder", tarfile.DIRTYPE), "is a folder"),
    "twice": (_block(b"a") * 2 + END, "a twice"),
    "many": (b"".join(_block(b"a%d" % i) for i in range(99)) + END, "more than 66 files"),
    "no end": (_block(b"a"), "cut off"),
    "more behind the end": (_block(b"a") + END + b"secret", "behind its end"),
    "zeros without end": (_block(b"a") + bytes(2**21), "behind its end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_at_once(tmp_path: Path, name: str) -> None:
    data, said = HOSTILE[name]
    path = tmp_path / "bundle.tar"
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(IntegrityError, match=said):
        Archive(io.BytesIO(data), path)
    assert time.process_time() - start < 1
    assert main([str(path)]) == IntegrityError.exit_code
    assert [p.name for p in tmp_path.iterdir()] == ["bundle.tar"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle.tar")
    assert main([str(tmp_path / "bundle.tar")]) == IntegrityError.exit_code
    assert main([str(tmp_path / "none.tar")]) == ConfigError.exit_code


def test_an_archive_that_shrinks_is_noticed(tmp_path: Path) -> None:
    buffer = io.BytesIO(_block(b"a", b"x" * 600) + END)
    found = Archive(buffer, tmp_path / "bundle.tar")
    assert [*found.names] == ["a"] and (found.read("a", 2), found.read("a", 700)) == (b"xx", b"x" * 600)
    buffer.truncate(BLOCK + 100)
    with pytest.raises(IntegrityError, match="cut off in a; the file is changing"):
        found.read("a", 700)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with a bundle."""
    write(tmp_path / "bundle", files.write(tmp_path / "model.onnx", files.qcdq()))
    return tmp_path / "bundle"


AGAIN = {
    "tar .": ["tar", "-cf", "{out}", "-C", "{bundle}", "."],
    "tar folder": ["tar", "-cf", "{out}", "-C", "{above}", "bundle"],
    "tar.gz": ["tar", "-czf", "{out}", "-C", "{bundle}", "manifest.json", "model.onnx"],
    "pax": ["tar", "--format=pax", "-cf", "{out}", "-C", "{bundle}", "manifest.json", "model.onnx"],
}


@pytest.mark.parametrize("name", AGAIN)
def test_a_bundle_that_was_packed_again_gets_told_what_is_expected(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / ("again.tar.gz" if name == "tar.gz" else "again.tar")
    subprocess.run([a.format(out=out, bundle=bundle, above=tmp_path) for a in AGAIN[name]], check=True)
    assert main([str(out)]) == IntegrityError.exit_code
    assert f"{out}: " in (said := capsys.readouterr().err) and archive.EXPECTED in said


def test_the_packing_that_is_expected_is_read(bundle: Path, tmp_path: Path) -> None:
    command = (
        archive.EXPECTED.partition(": ")[2].replace("FOLDER", "bundle").replace("bundle.tar", "again.tar")
    )
    assert command.startswith("tar ")
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    gnu = ["tar", "--format=gnu", "-C", str(bundle), "-cf", str(tmp_path / "gnu.tar")]
    subprocess.run([*gnu, *os.listdir(bundle)], check=True)
    for name in ("again.tar", "gnu.tar"):
        with (tmp_path / name).open("rb") as file:
            found = Archive(file, tmp_path / name)
            assert {n: found.read(n, 10**9) for n in found.names} == {
                p.name: p.read_bytes() for p in bundle.iterdir()
            }
        assert main([str(tmp_path / name)]) == 0
