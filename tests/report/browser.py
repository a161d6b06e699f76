"""A headless Chromium, driven through chromedriver's own protocol: no package needed."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
KEYS = {"enter": "\ue007", "escape": "\ue00c", "tab": "\ue004", "space": " "}
KEYS |= {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015"}
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    def __init__(self, profile, width=1280, height=900, dark=False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [DRIVER, f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        options = {"args": flags, "binary": CHROMIUM}
        always = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self.session = ""
        for _ in range(100):
            try:
                self._call("GET", "/status")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = f"/session/{made['sessionId']}"
        self.resize(width, height, dark)

    def _call(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.session}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def cdp(self, command, **params):
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def resize(self, width, height, dark=False):
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path):
        self._call("POST", "/url", {"url": f"file://{path}"})

    def run(self, script, *arguments):
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def log(self):
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def press(self, *keys):
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]}
        )

    def drag(self, *places):
        """Press at the first place (x, y in the window), move over the others, let go."""
        moves = [
            {"type": "pointerMove", "duration": 0, "x": int(x), "y": int(y)} for x, y in places
        ]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:]]
        actions.append({"type": "pointerUp", "button": 0})
        pointer = {"type": "pointer", "id": "mouse", "actions": actions}
        self._call("POST", "/actions", {"actions": [pointer]})

    def close(self):
        with contextlib.suppress(OSError):
            self._call("DELETE", "")
        self.process.terminate()
        self.process.wait(timeout=20)
