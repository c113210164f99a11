"""The page in a real browser: a person tries the model, on a phone and on a desk."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from urllib.request import urlopen

import pytest

from bench.serving.measure import free_port
from tests.toys.served import server

TRY = """new Promise(done => {
  document.querySelector("textarea").value = "<b>w0</b> w7";
  new MutationObserver(() => {
    const bars = document.querySelectorAll("#result .bars > .value").length, error = document.querySelector("#result .error");
    if (bars || error) done(JSON.stringify({bars, error: error && error.textContent, bold: document.querySelectorAll("b").length,
      wide: document.documentElement.scrollWidth - innerWidth, back: getComputedStyle(document.body).backgroundColor}));
  }).observe(document.getElementById("result"), {childList: true});
  document.getElementById("form").requestSubmit();
})"""


async def tried(address: str, width: int, scheme: str, token: str, folder) -> tuple[dict, list[str]]:
    """What stands on the page when the model has answered, and all that the console, the log and the network had to say."""
    import aiohttp

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "no chromium here: apt-get install chromium"
    port, profile = free_port(), folder / f"profile-{width}-{scheme}"
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", f"--remote-debugging-port={port}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen([browser, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(150):
            try:
                pages = [page for page in json.load(urlopen(f"http://127.0.0.1:{port}/json")) if page["type"] == "page"]
                break
            except OSError:
                time.sleep(0.2)
        said: list[str] = []
        async with aiohttp.ClientSession() as session, session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
            number = 0

            async def call(method: str, **parameters) -> dict:
                nonlocal number
                number += 1
                await socket.send_json({"id": number, "method": method, "params": parameters})
                while (heard := await socket.receive_json(timeout=30)).get("id") != number:
                    if heard["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                        said.append(json.dumps(heard["params"]))
                    elif heard["method"] == "Network.requestWillBeSent":
                        said.append(heard["params"]["request"]["url"])
                return heard["result"]

            await call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            await call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for part in ("Page", "Runtime", "Log", "Network"):
                await call(f"{part}.enable")
            await call("Page.navigate", url=address)
            ready = "document.readyState === 'complete' && !!document.getElementById('form')"
            while not (await call("Runtime.evaluate", expression=ready))["result"]["value"]:
                await asyncio.sleep(0.1)
            if token:
                await call("Runtime.evaluate", expression=f"document.getElementById('token').value = '{token}'")
            found = await call("Runtime.evaluate", expression=TRY, awaitPromise=True)
        return json.loads(found["result"]["value"]), said
    finally:
        process.terminate()
        process.wait()


@pytest.mark.browser
@pytest.mark.parametrize("token", ["", "a-token-of-enough-letters"])
def test_the_page_in_a_browser(project, tmp_path, token):
    """Probabilities are drawn, nothing is too wide, nothing is said in the console, and nobody else is asked."""
    with server(project / "run", **({"PLAINLOOP_TOKEN": token} if token else {})) as (_, port):
        address, backs = f"http://127.0.0.1:{port}/", set()
        for width, scheme in ((400, "light"), (400, "dark"), (1280, "dark")):
            found, said = asyncio.run(tried(address, width, scheme, token, tmp_path))
            backs.add(found.pop("back"))
            assert found == {"bars": 3, "error": None, "bold": 0, "wide": 0}
            assert [each for each in said if not each.startswith("data:")] == [address, f"{address}predict"]
        assert len(backs) == 2, "light and dark"
        if token:
            found, _ = asyncio.run(tried(address, 500, "light", "wrong", tmp_path))
            assert found["error"] == "a token is needed: Authorization: Bearer TOKEN"
