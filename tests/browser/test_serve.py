"""The page of `serve` on which a person tries the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from tests.served import jpeg, make_service, running, write_model

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser


def test_chosen_images_are_answered_and_a_file_that_is_none_is_told(browser: Chrome, tmp_path: Path) -> None:
    (tmp_path / "red.jpg").write_bytes(jpeg((200, 40, 40)))
    (tmp_path / "<b>grey.jpg").write_bytes(jpeg((120, 120, 120)))
    (tmp_path / "notes.txt").write_text("no image")
    service = make_service(write_model(tmp_path / "model.onnx"))
    with running(service.app()) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        files = "\n".join(str(tmp_path / name) for name in ("red.jpg", "<b>grey.jpg", "notes.txt"))
        browser.find_element(By.ID, "file").send_keys(files)

        def answers() -> list[str]:
            found = browser.find_elements(By.CSS_SELECTOR, ".answer > div")
            words = [one.text for one in found]
            return words if len(words) == 3 and all("…" not in one for one in words) else []

        WebDriverWait(browser, 20).until(lambda _: answers())
        broken, grey, red = answers()
        assert red.startswith("red\n")
        assert "%" in red
        assert "<b>grey.jpg" in grey
        assert "rejected: low confidence" in grey
        assert broken.startswith("no answer\nis not an image")
        browser.save_screenshot(str(tmp_path / "page.png"))
        # Nothing was blocked by the page's own policy.
        entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
        own = [entry["message"] for entry in entries if f":{port}/" in entry["message"]]
        assert [message for message in own if "400" not in message] == []
