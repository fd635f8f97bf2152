"""A page opened in a browser, and everything that went wrong or outside meanwhile."""

from pathlib import Path

from playwright.sync_api import Page

ALLOWED = ("file:", "data:", "about:")


class Visit:
    """Opens a file and listens."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri())

    @property
    def outside(self) -> list[str]:
        """What was asked of anybody but this file."""
        return [url for url in self.requests if not url.startswith(ALLOWED)]
