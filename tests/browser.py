"""What a browser makes of a page: its layout at several widths, as numbers."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SECONDS = 180

# The page's policy forbids scripts in it. This one is outside and looks into a frame of each width.
_MEASURE = """
const inside = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
function measure(frame) {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const wide = [...page.body.querySelectorAll('*')].filter(one => !one.closest('.scroll > *') &&
    one.getBoundingClientRect().right > width + 1).map(one => `${one.tagName} ${one.getAttribute('class')}`);
  const charts = [...page.querySelectorAll('svg[role=img]')].map(chart => {
    const box = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    const drawn = [...chart.querySelectorAll('circle, polyline, .mark path, .bar')].filter(one => {
      const size = one.getBoundingClientRect();
      return size.width + size.height > 0 && size.right > box.left - 8 && size.left < box.right + 8 &&
        size.bottom > box.top - 8 && size.top < box.bottom + 8;
    });
    const overlapping = [];
    texts.forEach(([text, one], index) => texts.slice(index + 1).forEach(([other, two]) => {
      if (inside(one, two)) overlapping.push(`${text} / ${other}`);
    }));
    return {name: chart.getAttribute('aria-labelledby'), width: box.width, height: box.height, drawn: drawn.length,
      outside: texts.filter(([, one]) => one.left < 0 || one.right > width).map(([text]) => text), overlapping};
  });
  const tables = [...page.querySelectorAll('table')].every(table => table.parentElement.matches('.scroll') &&
    page.defaultView.getComputedStyle(table.parentElement).overflowX === 'auto');
  return {scrollWidth: page.documentElement.scrollWidth, wide, charts, tables};
}
addEventListener('load', () => {
  const found = {};
  document.querySelectorAll('iframe').forEach(frame => { found[frame.getAttribute('width')] = measure(frame); });
  document.querySelector('pre').textContent = JSON.stringify(found);
});
"""


def shown_at(page: str, widths: Sequence[int], folder: Path) -> dict[str, Any]:
    """The layout of a page in a real browser, by the width of the window in pixels.

    Each has `scrollWidth`, what is too `wide`, whether all `tables` scroll inside themselves, and its `charts`.
    """
    browser = shutil.which("chromium")
    if browser is None:
        if os.environ.get("CI"):
            raise AssertionError("chromium is missing: run bash tests/cluster/packages.sh")
        pytest.skip("NOT TESTED: chromium is missing; tests/cluster/packages.sh installs it")
    folder.mkdir(parents=True)
    frames = "".join(f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
                     for width in widths)
    around = folder / "around.html"
    around.write_text(f'<!doctype html><meta charset="utf-8"><pre></pre>{frames}<script>{_MEASURE}</script>')
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1600,1200", "--dump-dom", around.as_uri()],
        capture_output=True, text=True, timeout=SECONDS, check=True)
    found = re.search(r"<pre>(.*?)</pre>", shown.stdout, re.DOTALL)
    assert found and found[1], shown.stdout[:2000] + shown.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
