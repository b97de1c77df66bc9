"""The client of the Python SDK 2.x, as it comes or, with TASK["mode"] = "legacy", as one of before 2026-07-28."""

import asyncio
from contextlib import asynccontextmanager

from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from story import HEADERS, TASK, Bell, story


async def main():
    bell = Bell()
    async with create_mcp_http_client(headers=HEADERS) as http:
        transport = streamable_http_client(TASK["url"], http_client=http)
        async with Client(transport, mode=TASK["mode"], message_handler=bell.hear) as client:

            @asynccontextmanager
            async def listen():
                async with client.listen(tools_list_changed=True) as subscription:
                    yield lambda: anext(aiter(subscription))

            changes = bell if TASK["mode"] == "legacy" else listen
            await story(client, getattr, "progress_callback", lambda: client.protocol_version, changes)


asyncio.run(main())
