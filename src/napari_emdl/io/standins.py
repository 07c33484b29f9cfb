"""Files that stand where data should be: pointers of Git LFS, error pages of servers, downloads that came to no end."""

from __future__ import annotations

import re

#: Endings of text files that may be opened, or that are told about elsewhere.
_TEXT = (".xml", ".txt", ".csv", ".hdr", ".rpl", ".nsproj", ".json", ".log")
#: Endings of raw numbers, which may well begin with zeros.
_RAW = (".raw", ".bin", ".dat", "")
_AGAIN = "download the data again"
_LFS = b"version https://git-lfs"
_ANNEX = re.compile(rb"(\.\./)*/?(\.git/)?annex/objects/")
_SIZE = re.compile(rb"^size (\d+)", re.MULTILINE)
_TITLE = re.compile(rb"<title[^>]*>\s*(.{1,80}?)\s*</title>", re.DOTALL | re.IGNORECASE)
_PAGE = re.compile(rb"<(!doctype html|html|head|body)\b", re.IGNORECASE)
_ANSWER = re.compile(rb'\s*(<\?xml|\{\s*"\w+"\s*:)')
_LEAST_ZEROS = 64
#: Gaps between words a byte: a value of 32 in evenly spread counts of 8 bit comes once in a hundred.
_LEAST_GAPS = 0.04


def no_data(head: bytes, ending: str) -> str:
    """What a file is that holds no data, and what to do; "" for one that may.

    Parameters
    ----------
    head
        Its first bytes.
    ending
        Of its name, with the dot, in small letters.
    """
    if not head:
        return f"is empty (0 bytes); {_AGAIN}, or see whether the acquisition was saved"
    if head.startswith(_LFS):
        size = _SIZE.search(head)
        of = f" of {int(size[1]):,} bytes" if size else ""
        todo = "run `git lfs pull` in its repository, or download the file itself"
        return f"is a Git LFS pointer, not the file{of} it stands for; {todo}"
    if _ANNEX.match(head):
        return "is a git-annex pointer, not the file it stands for; run `git annex get` in its repository"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if _PAGE.match(start):
        title = _TITLE.search(head)
        named = f" ({title[1].decode('utf-8', 'replace')!r})" if title else ""
        return f"is a web page{named} saved under this name; {_AGAIN}, from the link to the file itself"
    if ending in _TEXT:
        return ""
    if len(head) >= _LEAST_ZEROS and ending not in _RAW and not any(head):
        return f"begins with nothing but zeros: its download or copy did not come to an end; {_AGAIN}"
    if _is_text(head):
        words = " ".join(head.decode("utf-8", "replace").split())
        return (
            f"is text ({words[:60] + ('...' if len(words) > 60 else '')!r}), not data; if a server answered with it, {_AGAIN}"
        )
    return ""


def _is_text(head: bytes) -> bool:
    """Whether there are letters, digits and signs only, in words or an answer of a server.

    Counts of about 100 in 8 bit are letters as well, but they have no gaps.
    """
    printable = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    words = len(head.split()) - 1 > _LEAST_GAPS * len(head) or _ANSWER.match(head)
    return printable and bool(words) and sum(chr(byte).isalpha() for byte in head) > 0.4 * len(head)
