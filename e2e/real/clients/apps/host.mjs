// The page of a host of MCP Apps: renders the App of each tool that has one, through one MCP endpoint, and tells what it saw.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { AppBridge, PostMessageTransport, RESOURCE_MIME_TYPE, getToolUiResourceUri } from "@modelcontextprotocol/ext-apps/app-bridge";

const settings = await (await fetch("/settings")).json();
const info = { name: "host", version: "1.0.0" };
const extensions = { "io.modelcontextprotocol/ui": { mimeTypes: [RESOURCE_MIME_TYPE] } };

// For the error if it takes too long.
const step = (what) => fetch(`/step/${encodeURIComponent(what)}`);

// What an App says in its first message, once it has called a tool back.
async function render(client, tool) {
  const uri = getToolUiResourceUri(tool);
  await step(`read ${uri}`);
  const { contents: [page] } = await client.readResource({ uri });
  await step(`call ${tool.name}`);
  const result = await client.callTool({ name: tool.name, arguments: { message: "first" } });
  await step(`render ${uri}`);
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  document.body.append(frame);
  const bridge = new AppBridge(client, info, { serverTools: {}, message: {} });
  const said = new Promise((tell) => {
    bridge.onmessage = async ({ content }) => {
      tell(content[0].text);
      return {};
    };
  });
  bridge.oninitialized = async () => {
    await step(`${uri} has begun`);
    await bridge.sendToolInput({ arguments: { message: "first" } });
    await bridge.sendToolResult(result);
  };
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = page.text;
  return { tool: tool.name, uri, mimeType: page.mimeType, meta: page._meta, said: await said };
}

async function run() {
  const client = new Client(info, { capabilities: { extensions } });
  const requestInit = { headers: { Authorization: `Bearer ${settings.token}` } };
  await client.connect(new StreamableHTTPClientTransport(new URL(settings.url), { requestInit }));
  await step("list");
  const { tools } = await client.listTools();
  const apps = [];
  for (const tool of tools.filter(getToolUiResourceUri)) apps.push(await render(client, tool));
  return { announced: client.getServerCapabilities().extensions, apps };
}

const outcome = await run().catch((error) => ({ error: String(error?.stack ?? error) }));
await fetch("/outcome", { method: "POST", body: JSON.stringify(outcome) });
