"""Chromium without a screen: opens a page from disk and answers what a reader would see."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"
"""Why no page can be opened here; empty where it can."""

DESKTOP, PHONE = (1280, 900), (390, 844)
A4_INCHES, PRINT_MARGIN_INCHES = (8.27, 11.69), 0.4
PRINTED_WIDTH = int(96 * (A4_INCHES[0] - 2 * PRINT_MARGIN_INCHES))
"""CSS pixels between the margins of a printed page."""
LOOK = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")
_OPTIONS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)


@contextmanager
def started(profile: Path) -> Iterator["Browser"]:
    """A browser with an empty profile, closed at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*_OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(
        self,
        page: Path,
        size: tuple[int, int] = DESKTOP,
        *,
        scheme: str = "light",
        media: str = "screen",
        fragment: str = "",
    ) -> "Browser":
        """A page afresh, in a window of a size, as a reader with that preference sees it."""
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        wanted = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # scrolls at once
        ]
        self.command("Emulation.setEmulatedMedia", media=media, features=wanted)
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # forgets what was before
        self.driver.get(page.resolve().as_uri() + fragment)
        return self

    def command(self, name: str, **arguments: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def ask(self, script: str, *arguments: Any) -> Any:
        """The value of an expression of ``look.js``; its arguments are ``arguments[0]`` and on."""
        return self.driver.execute_script(f"{LOOK}\nreturn {script};", *arguments)

    def click(self, element: str) -> None:
        """A click of the mouse on what an expression of ``look.js`` gives, in mid-window."""
        found = self.ask(element)
        self.ask("arguments[0].scrollIntoView({ block: 'center' })", found)
        found.click()

    def console(self) -> list[str]:
        """Errors, warnings and messages since the page was opened."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def pdf(self) -> bytes:
        """The page printed on A4."""
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", media="", features=[])
        width, height = A4_INCHES
        margins = dict.fromkeys(
            ("marginTop", "marginBottom", "marginLeft", "marginRight"), PRINT_MARGIN_INCHES
        )
        printed = self.command(
            "Page.printToPDF", paperWidth=width, paperHeight=height, printBackground=True, **margins
        )
        return base64.b64decode(printed["data"])
