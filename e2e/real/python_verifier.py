"""A small MCP server on FastMCP that verifies who calls: python_verifier.py PORT KEYS ISSUER AUDIENCE"""

import sys

from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import JWTVerifier
from fastmcp.server.dependencies import get_access_token

_, port, keys, issuer, audience = sys.argv
# By default it fetches new keys at most once in a while, however many tokens name a key that it does not know.
verifier = JWTVerifier(jwks_uri=keys, issuer=issuer, audience=audience, algorithm="ES256", jwks_refresh_interval=0)
server = FastMCP("python-verifier", auth=verifier)


@server.tool(output_schema=None)
def whoami() -> dict:
    """Say whom the verified token names."""
    return get_access_token().claims


if __name__ == "__main__":
    server.run(transport="http", host="127.0.0.1", port=int(port), log_level="warning", show_banner=False)
