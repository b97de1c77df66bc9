"""What every Python client does: see `story`. The task is the JSON in the first argument."""

import asyncio
import json
import sys

TASK = json.loads(sys.argv[1])
HEADERS = {"Authorization": f"Bearer {TASK['token']}"}


async def story(client, listed, progress_as, revision, changes):
    """List, call, call with progress, wait until a tool is new, and say at the end what was seen.

    `listed` takes the items out of a list, `progress_as` is the name of the argument for the progress callback, and
    `changes` gives a context whose value waits for the next change of the tools.
    """
    names = lambda tools: sorted(tool.name for tool in listed(tools, "tools"))
    tools = names(await client.list_tools())
    prompts = sorted(prompt.name for prompt in listed(await client.list_prompts(), "prompts"))
    resources = sorted(str(resource.uri) for resource in listed(await client.list_resources(), "resources"))
    said = await client.call_tool(TASK["quick"]["name"], TASK["quick"]["arguments"])

    progress = []

    async def progressed(done, total=None, message=None):
        progress.append(done)

    slow = await client.call_tool(TASK["slow"]["name"], TASK["slow"]["arguments"], **{progress_as: progressed})
    seen = list(progress)
    async with changes() as next_change:
        print("listening", flush=True)
        after = tools
        while TASK["fresh"] not in after:
            await next_change()
            after = names(await client.list_tools())
    print(json.dumps({
        "revision": revision(), "tools": tools, "prompts": prompts, "resources": resources,
        "quick": said.content[0].text, "slow": slow.content[0].text, "progress": seen,
        "fresh": sorted(set(after) - set(tools)),
    }), flush=True)


class Bell:
    """Rung by each `notifications/tools/list_changed`; for sessions of before 2026-07-28."""

    def __init__(self):
        self.event = asyncio.Event()

    async def hear(self, message):
        # mcp 1.x has the notification inside of a root model.
        message = getattr(message, "root", message)
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self.event.set()

    def __call__(self):
        return self

    async def __aenter__(self):
        return self.next

    async def __aexit__(self, *_):
        pass

    async def next(self):
        await self.event.wait()
        self.event.clear()
