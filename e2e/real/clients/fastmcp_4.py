"""FastMCP's client, as it comes or, with TASK["mode"] = "legacy", as one of before 2026-07-28; over HTTP+SSE if the URL
ends in /sse."""

import asyncio
from contextlib import asynccontextmanager

from fastmcp import Client
from fastmcp.client.transports import SSETransport, StreamableHttpTransport
from mcp.client.subscriptions import listen
from story import TASK, Bell, story


async def main():
    bell = Bell()
    connect = SSETransport if TASK["url"].endswith("/sse") else StreamableHttpTransport
    transport = connect(TASK["url"], auth=TASK["token"])
    async with Client(transport, mode=TASK["mode"], message_handler=bell.hear) as client:

        @asynccontextmanager
        async def listening():
            async with listen(client.session, tools_list_changed=True) as subscription:
                yield lambda: anext(aiter(subscription))

        changes = bell if TASK["mode"] == "legacy" else listening
        await story(client, lambda items, _: items, "progress_handler", lambda: client.protocol_version, changes)


asyncio.run(main())
