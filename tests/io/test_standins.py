"""Files that stand where data should be are named for what they are, with what to do."""

import gzip
import zipfile

import numpy as np
import pytest

from napari_emdl import EmdlError
from napari_emdl import open as open_data

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345678\n"
PAGE = b'\n<!DOCTYPE html>\n<html lang="en"><head><title>404 Not Found</title></head><body>no</body></html>\n'
REFUSED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
STANDINS = {
    "a Git LFS pointer": (LFS, r"LFS pointer.*12,345,678 bytes.*git lfs pull"),
    "a git-annex pointer": (b"/annex/objects/SHA256E-s1234--abcd.dm4\n", r"git-annex pointer.*git annex get"),
    "a page of errors": (PAGE, r"web page \('404 Not Found'\).*download"),
    "an answer in JSON": (b'{"message": "Not Found", "status": "404"}', r"is text \('\{\"message\": \"Not Found\".*download"),
    "an answer in XML": (REFUSED, r"is text .*AccessDe.*download"),
    "one line": (b"404: Not Found", r"is text \('404: Not Found'\)"),
    "zeros": (bytes(4096), r"nothing but zeros.*download"),
    "nothing": (b"", r"is empty \(0 bytes\); download"),
}


@pytest.mark.parametrize(
    "ending", ["dm3", "dm4", "h5", "emd", "hspy", "npy", "tif", "mrc", "mib", "blo", "png", "tvips", "zip"]
)
@pytest.mark.parametrize("what", STANDINS)
def test_what_is_no_data_says_what_it_is(tmp_path, what, ending) -> None:
    content, says = STANDINS[what]
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(content)
    with pytest.raises(EmdlError, match=f"^scan.{ending} .*{says}"):
        open_data(path)


def test_raw_numbers_may_begin_with_zeros(tmp_path) -> None:
    data = np.zeros((8, 8, 32, 32), np.uint16)
    data[4:] = 3
    path = tmp_path / "scan.raw"
    data.tofile(path)
    assert open_data(path, shape=(8, 8, 32, 32), dtype="uint16").scan_shape == (8, 8)


@pytest.mark.parametrize("level", [70, 105, 118])
def test_counts_that_are_letters_are_no_text(tmp_path, level) -> None:
    counts = np.random.default_rng(level).poisson(level, (40, 128, 128)).clip(50, 122).astype(np.uint8)
    for name in ("movie.raw", "movie.img"):
        counts.tofile(tmp_path / name)
        np.testing.assert_array_equal(open_data(tmp_path / name, shape=counts.shape, dtype="uint8").frame(7), counts[7])


def test_an_array_packed_under_another_name_says_how(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4)))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(gzip.compress(whole))
    with pytest.raises(EmdlError, match=r"packed \(gzip\); unpack"):
        open_data(tmp_path / "b.npy")
    with zipfile.ZipFile(tmp_path / "c.dm4", "w") as archive:
        archive.writestr("a.npy", whole)
    with pytest.raises(EmdlError, match="is a zip file; unpack it"):
        open_data(tmp_path / "c.dm4")
