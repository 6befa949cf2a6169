"""What every page must be: complete in itself, no wider than the window, readable. Each check gives what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WIDTHS = (390, 800, 1440)  # pixels: a telephone, a tablet, a screen
# Whatever reaches beyond the window's right edge and does not lie in something that scrolls on its own.
WIDE = """() => {
    const room = document.documentElement.clientWidth;
    const own = (e) => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);
    const scrolls = (e) => e && (own(e) || scrolls(e.parentElement));
    const wide = [...document.body.querySelectorAll("*")]
        .filter((e) => e.getBoundingClientRect().right > room + 1 && !scrolls(e))
        .map((e) => `${e.outerHTML.slice(0, 120)} reaches to ${Math.round(e.getBoundingClientRect().right)}`);
    const whole = document.documentElement.scrollWidth;
    return whole > room && !wide.length ? [`the page is ${whole} wide`] : wide;
}"""


@dataclass
class Watched:
    """A page of the browser, and what it has complained of or asked for elsewhere since it was made."""

    page: object
    own: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._console)

    def _request(self, request) -> None:
        if not request.url.startswith((self.own, "data:", "blob:")):
            self.complaints.append(f"asks for {request.url}")

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def overflow(self) -> list[str]:
        """At each width, what sticks out."""
        found = []
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            found += [f"at {width}: {text}" for text in self.page.evaluate(WIDE)]
        return found

    def unreadable(self) -> list[str]:
        """What axe-core finds against the rules A and AA of WCAG 2.2 (contrast, alternative texts, names, order)."""
        from axe_playwright_python.sync_playwright import Axe

        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        options = {"runOnly": {"type": "tag", "values": rules}, "resultTypes": ["violations"]}
        return [
            f"{violation['id']}: {node['html'][:160]} ({node['failureSummary']})"
            for violation in Axe().run(self.page, options=options).response["violations"]
            for node in violation["nodes"]
        ]


@contextmanager
def opened(browser, address: str, own: str = "file://", dark: bool = False) -> Iterator[Watched]:
    """The page at `address` in a new window. own: how the addresses begin that it may ask for."""
    page = browser.new_page(viewport={"width": WIDTHS[-1], "height": 900}, color_scheme="dark" if dark else "light")
    watched = Watched(page, own)
    page.goto(address, wait_until="load")
    yield watched
    page.close()


def wrong(browser, address: str, own: str = "file://") -> list[str]:
    """Everything that is wrong with the page at `address`, in light and in dark colours."""
    found = []
    for dark in (False, True):
        with opened(browser, address, own, dark) as watched:
            found += watched.overflow() if not dark else []
            found += watched.unreadable() + watched.complaints
    return found
