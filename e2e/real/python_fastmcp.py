"""A small MCP server on FastMCP: python_fastmcp.py sse|http PORT [HOST]"""

import asyncio
import sys

from fastmcp import Context, FastMCP
from mcp.types import ToolAnnotations
from pydantic import BaseModel

server = FastMCP("python-fastmcp")
count = 0


class Sum(BaseModel):
    """What `add` answers."""

    sum: int


@server.tool(annotations=ToolAnnotations(read_only_hint=True), output_schema=None)
def echo(message: str) -> str:
    """Give the message back."""
    return f"Echo: {message}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> Sum:
    """Add two integers; the answer is structured."""
    return Sum(sum=a + b)


@server.tool(output_schema=None)
async def slow(seconds: float, context: Context) -> str:
    """Answer after so many seconds, with progress at half time."""
    await asyncio.sleep(seconds / 2)
    await context.report_progress(1, 2)
    await asyncio.sleep(seconds / 2)
    return "done"


@server.tool(output_schema=None)
def counter() -> str:
    """Count the calls of this process."""
    global count
    count += 1
    return str(count)


if __name__ == "__main__":
    host = (sys.argv + ["127.0.0.1"])[3]
    server.run(transport=sys.argv[1], host=host, port=int(sys.argv[2]), log_level="warning", show_banner=False)
