"""Photograph every page of the built site in a headless browser, and list what a reader would stumble over.

    python scripts/look_at_pages.py docs/_build/html OUT [--page benchmarks] [--browser /usr/bin/chromium]

Run by hand after `make docs`; needs the package playwright and an installed Chromium (Debian: chromium). Each page is taken
at the width of a desktop and of a phone, cut into pieces that can be looked at. Listed are pages wider than their window,
elements that stick out, images that did not load, links inside the site that lead nowhere, and pages without text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS_px = {"desktop": 1366, "phone": 390}
PIECE_px = 2600  # of height in one picture
LEAST_WORDS = 12  # of a page's article
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
FAULTS = """() => {
  const article = document.querySelector('article');
  const wide = document.documentElement.clientWidth;
  const scrolls = e => { for (let p = e; p && p.tagName !== 'ARTICLE'; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true; return false; };
  const shown = e => e.offsetParent !== null;
  const found = [];
  if (document.documentElement.scrollWidth > wide)
    found.push(`page is ${document.documentElement.scrollWidth} px wide in a window of ${wide}`);
  const out = e => shown(e) && e.getBoundingClientRect().right > wide + 1 && !scrolls(e) && !e.matches('.headerlink');
  for (const e of document.querySelectorAll('article *'))
    if (out(e) && !out(e.parentElement))
      found.push(`sticks out: <${e.tagName.toLowerCase()}> ${e.textContent.trim().slice(0, 40)}`);
  for (const e of document.images)
    if (shown(e) && !e.naturalWidth) found.push(`image did not load: ${e.getAttribute('src')}`);
  const words = (article?.innerText || '').split(/\\s+/).length;
  return { found, words, links: [...document.querySelectorAll('a[href]')].map(a => a.href),
           ids: [...document.querySelectorAll('[id]')].map(e => e.id), height: document.documentElement.scrollHeight };
}"""


def pieces(page: Page, height_px: int, out: Path) -> None:
    """Take a page in pieces from top to bottom."""
    width_px = page.viewport_size["width"]  # type: ignore[index]
    for number, top in enumerate(range(0, height_px, PIECE_px)):
        clip = {"x": 0, "y": top, "width": width_px, "height": min(PIECE_px, height_px - top)}
        page.screenshot(path=f"{out}_{number}.png", full_page=True, clip=clip)  # type: ignore[arg-type]


def look_at(browser: Browser, site: Path, pages: list[Path], out: Path) -> Iterator[str]:
    """Photograph pages of a site; gives one line for each fault."""
    links: dict[str, set[str]] = {}
    ids: dict[Path, set[str]] = {}
    for device, width_px in WIDTHS_px.items():
        page = browser.new_page(viewport={"width": width_px, "height": 1000})
        for path in pages:
            name = path.relative_to(site).with_suffix("").as_posix()
            page.goto(path.as_uri())
            seen = page.evaluate(FAULTS)
            pieces(page, seen["height"], out / f"{name.replace('/', '-')}_{device}")
            yield from (f"{name} ({device}): {fault}" for fault in seen["found"])
            if seen["words"] < LEAST_WORDS:
                yield f"{name}: hardly any text"
            links[name] = set(seen["links"])
            ids[path] = set(seen["ids"])
    for name, targets in links.items():
        for target in sorted(targets):
            parts = urlsplit(target)
            if parts.scheme != "file":
                continue
            file = Path(url2pathname(parts.path))
            if not file.exists():
                yield f"{name}: link to {file} leads nowhere"
            elif parts.fragment and file in ids and unquote(parts.fragment) not in ids[file]:
                yield f"{name}: no #{parts.fragment} in {file.relative_to(site)}"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--page", default="", help="only pages whose name holds this")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    args = parser.parse_args()
    site = args.site.resolve()
    names = {p: p.relative_to(site).as_posix() for p in site.rglob("*.html")}
    pages = sorted(p for p, name in names.items() if args.page in name and not name.startswith(("_static", "search")))
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=list(QUIET))
        faults = list(look_at(browser, site, pages, args.out))
    print(*faults, f"{len(pages)} pages, {len(faults)} faults; pictures in {args.out}", sep="\n")


if __name__ == "__main__":
    main()
