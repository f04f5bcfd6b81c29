"""The vendor's sample, with its jobs told apart: requests, the whole body in memory.

It takes the command line of the other contenders and tells the same of itself.
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
# So that a body over 1 MiB is announced as by the others.
ASK_FIRST = 1024 * 1024


class Contender:
    def __init__(self, base):
        self.base = base
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
        if len(body) > ASK_FIRST:
            headers["Expect"] = "100-continue"
        answer = self.session.post(self.base + PATH, data=body, headers=headers)
        answer.raise_for_status()
        return answer.json()["id"]

    def create_file(self, picture):
        with open(picture, "rb") as file:
            data = base64.b64encode(file.read()).decode()
        return self.create("data:image/png;base64," + data)

    def retrieve(self, id):
        parameters = {"generation_id": id}
        answer = self.session.get(self.base + PATH, params=parameters, headers=HEADERS)
        answer.raise_for_status()
        return answer.json()

    def link(self):
        self.retrieve(self.create("https://example.com/cat.jpg"))

    def file(self, picture):
        self.retrieve(self.create_file(picture))

    def upload(self, picture):
        self.create_file(picture)

    def download(self, url, to, sync=False):
        headers = {"User-Agent": HEADERS["User-Agent"], "Accept-Encoding": "identity"}
        with self.session.get(url, headers=headers, stream=True) as answer, open(to, "wb") as file:
            answer.raise_for_status()
            for piece in answer.iter_content(chunk_size=128 * 1024):
                file.write(piece)
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
    base, job, times, *rest = sys.argv[1:]
    contender = Contender(base)
    jobs = {
        "noop": lambda: None,
        "link": contender.link,
        "file": contender.file,
        "upload": contender.upload,
        "download": contender.download,
        "download-synced": lambda url, to: contender.download(url, to, True),
    }
    begun = time.perf_counter_ns()
    for _ in range(int(times)):
        jobs[job](*rest)
    print(f"nanoseconds {time.perf_counter_ns() - begun}")
    print(f"peak_kib {peak_kib()}")


main()
