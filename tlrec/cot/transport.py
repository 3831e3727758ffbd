"""An HTTP client that no server can block or flood: each attempt has a deadline and a limit of bytes.

httpx limits the wait for each piece of an answer, but not the number of pieces.
"""

import asyncio
import time

import httpx2
import openai

ANSWER_BYTES = 4 << 20  # of a whole answer, or of one line in a file
FILE_BYTES = 1 << 30  # of a file, which is read piece by piece
SLOWEST = 100_000  # bytes per second; large files may take longer


class Unreadable(openai.OpenAIError):
    """The answer is too long or compressed. `openai` does not retry after its own errors."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """seconds: for one attempt, from the connection to the last byte; uploads and streams get more."""

    def __init__(self, seconds, on_response):
        hooks = {"response": [self._bound, on_response]}
        headers = {"Accept-Encoding": "identity"}  # a few compressed bytes may unpack to any number
        super().__init__(timeout=seconds, headers=headers, event_hooks=hooks)
        self._seconds = seconds

    async def send(self, request, *, stream=False, **options):
        request.extensions = {**request.extensions, "streamed": stream}
        seconds = self._seconds + int(request.headers.get("content-length", 0)) / SLOWEST
        try:
            async with asyncio.timeout(seconds):
                return await super().send(request, stream=stream, **options)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"not complete within {seconds:g} s", request=request) from None

    async def _bound(self, response):
        streamed = response.request.extensions["streamed"] and response.is_success
        response.stream = _Bounded(response.stream, FILE_BYTES if streamed else ANSWER_BYTES, self._seconds)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unreadable("the answer is compressed, although compression was not accepted")


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream, most, seconds):
        self._stream, self._most, self._seconds = stream, most, seconds

    async def __aiter__(self):
        received, start = 0, time.monotonic()
        async for piece in self._stream:
            received += len(piece)
            if received > self._most:
                raise Unreadable(f"the answer is longer than {self._most >> 20} MiB")
            if time.monotonic() - start > self._seconds + received / SLOWEST:
                raise httpx2.ReadTimeout("the answer was not complete in time")
            yield piece

    async def aclose(self):
        await self._stream.aclose()
