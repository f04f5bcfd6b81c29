"""The vendor's sample, split into jobs: the requests library, the complete body in memory.

It has the same command line as the other implementations and prints the same measurements.
"""

import base64
import json
import os
import sys
import time

import requests

PATH = "/v2/generate/video/kling/generation"
HEADERS = {
    "Authorization": "Bearer sandbox-key",
    "Accept": "application/json",
    "User-Agent": "kling-video-compare",
}
# Larger bodies are sent with "Expect: 100-continue", as the other implementations do.
EXPECT_CONTINUE_THRESHOLD = 1024 * 1024


class Implementation:
    def __init__(self, base_url):
        self.base_url = base_url
        self.session = requests.Session()
        self.session.trust_env = False
        self.count = 0

    def create(self, image_url):
        self.count += 1
        body = json.dumps(
            {
                "model": "kling-video/v2.1/pro/image-to-video",
                "type": "image-to-video",
                "prompt": "the cat yawns",
                "image_url": image_url,
            },
            separators=(",", ":"),
        )
        headers = {
            **HEADERS,
            "Content-Type": "application/json",
            "X-Client-Request-Id": f"kling-video-{os.getpid():016x}{self.count:016x}",
        }
        if len(body) > EXPECT_CONTINUE_THRESHOLD:
            headers["Expect"] = "100-continue"
        response = self.session.post(self.base_url + PATH, data=body, headers=headers)
        response.raise_for_status()
        return response.json()["id"]

    def create_from_file(self, image):
        with open(image, "rb") as file:
            data = base64.b64encode(file.read()).decode()
        return self.create("data:image/png;base64," + data)

    def retrieve(self, id):
        parameters = {"generation_id": id}
        response = self.session.get(self.base_url + PATH, params=parameters, headers=HEADERS)
        response.raise_for_status()
        return response.json()

    def create_and_poll_url(self):
        self.retrieve(self.create("https://example.com/cat.jpg"))

    def create_and_poll_file(self, image):
        self.retrieve(self.create_from_file(image))

    def upload(self, image):
        self.create_from_file(image)

    def download(self, url, path, sync=False):
        headers = {"User-Agent": HEADERS["User-Agent"], "Accept-Encoding": "identity"}
        response = self.session.get(url, headers=headers, stream=True)
        with response, open(path, "wb") as file:
            response.raise_for_status()
            for chunk in response.iter_content(chunk_size=128 * 1024):
                file.write(chunk)
            if sync:
                file.flush()
                os.fsync(file.fileno())


def peak_kib():
    try:
        with open("/proc/self/status") as status:
            return next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    except OSError:
        return 0


def main():
    base_url, job, times, *arguments = sys.argv[1:]
    implementation = Implementation(base_url)
    jobs = {
        "noop": lambda: None,
        "create-url": implementation.create_and_poll_url,
        "create-file": implementation.create_and_poll_file,
        "upload": implementation.upload,
        "download": implementation.download,
        "download-synced": lambda url, path: implementation.download(url, path, True),
    }
    started = time.perf_counter_ns()
    for _ in range(int(times)):
        jobs[job](*arguments)
    print(f"nanoseconds {time.perf_counter_ns() - started}")
    print(f"peak_kib {peak_kib()}")


main()
