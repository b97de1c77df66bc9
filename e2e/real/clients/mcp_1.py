"""The client of the Python SDK 1.x; over HTTP+SSE if the URL ends in /sse."""

import asyncio

from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client
from story import HEADERS, TASK, Bell, story


async def main():
    bell = Bell()
    connect = sse_client if TASK["url"].endswith("/sse") else streamablehttp_client
    async with connect(TASK["url"], headers=HEADERS) as (read, write, *_):
        async with ClientSession(read, write, message_handler=bell.hear) as session:
            agreed = await session.initialize()
            await story(session, getattr, "progress_callback", lambda: agreed.protocolVersion, bell)


asyncio.run(main())
