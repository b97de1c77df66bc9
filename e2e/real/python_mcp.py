"""A small MCP server on the official Python SDK: python_mcp.py sse|streamable PORT [HOST]"""

import asyncio
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel

server = MCPServer("python-mcp", log_level="WARNING")
count = 0


class Sum(BaseModel):
    """What `add` answers."""

    sum: int


@server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
def echo(message: str) -> str:
    """Give the message back."""
    return f"Echo: {message}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> Sum:
    """Add two integers; the answer is structured."""
    return Sum(sum=a + b)


@server.tool(structured_output=False)
async def slow(seconds: float, context: Context) -> str:
    """Answer after so many seconds, with progress at half time."""
    await asyncio.sleep(seconds / 2)
    await context.report_progress(1, 2)
    await asyncio.sleep(seconds / 2)
    return "done"


@server.tool(structured_output=False)
def counter() -> str:
    """Count the calls of this process."""
    global count
    count += 1
    return str(count)


if __name__ == "__main__":
    transport = {"sse": "sse", "streamable": "streamable-http"}[sys.argv[1]]
    server.run(transport=transport, host=(sys.argv + ["127.0.0.1"])[3], port=int(sys.argv[2]))
