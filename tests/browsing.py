"""An explorer's page in a browser, by what a person sees of it."""

import re
import threading
from contextlib import contextmanager

import pytest
import torch

from s2rm.explorer import runtime, serve


def need_runtime():
    """Skip where there is nothing that runs models in a browser."""
    try:
        runtime()
    except ValueError as error:
        pytest.skip(str(error))


@contextmanager
def serving(folder):
    with serve(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Page:
    """The page in a browser, by what a person sees of it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get_log("browser")
        browser.get(address)
        self.until(lambda: self.shown("main") or self.shown("problem"))

    def until(self, holds):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda _: holds())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def shown(self, name):
        return self.one(f"#{name}").is_displayed()

    def step(self):
        before = self.one("#clock").text
        self.one("#step").click()
        self.until(lambda: self.one("#clock").text != before)

    def squares(self):
        labels = [square.get_attribute("aria-label") for square in self.all(".panel:first-child .mark")]
        return [tuple(map(int, re.search(r"row (\d+), column (\d+)", label).groups())) for label in labels]

    def picture(self, panel=0):
        """The colours of a panel's picture, `(H, W, 3)`."""
        script = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        canvas = self.all("canvas")[panel]
        rows, columns = (int(canvas.get_attribute(side)) for side in ("height", "width"))
        return torch.tensor(self.browser.execute_script(script, canvas)).view(rows, columns, 4)[..., :3]

    def beliefs(self, panel=0):
        """The red of each pixel of a panel's picture, from 0 to 1."""
        return self.picture(panel)[..., 0] / 255

    def scores(self):
        return [float(numbers.text.split()[1]) for numbers in self.all(".numbers")]
