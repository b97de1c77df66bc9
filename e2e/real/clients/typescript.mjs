// The clients of the TypeScript SDK: `typescript.mjs 1|2 TASK`. 2.x speaks as one of before 2026-07-28 unless
// TASK.mode says otherwise; 1.x over HTTP+SSE if the URL ends in /sse. Run it in the folder that holds node_modules.

import { createRequire } from "node:module";

const [, , major, argument] = process.argv;
const task = JSON.parse(argument);
const require = createRequire(`${process.cwd()}/`);

const { Client, SSEClientTransport, StreamableHTTPClientTransport } =
  major === "1"
    ? {
        ...require("@modelcontextprotocol/sdk/client/index.js"),
        ...require("@modelcontextprotocol/sdk/client/sse.js"),
        ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
      }
    : require("@modelcontextprotocol/client");

const names = (tools) => tools.map((tool) => tool.name).sort();
const waiting = [];
let news = 0;
const nextChange = () => (news > 0 ? Promise.resolve(news--) : new Promise((resolve) => waiting.push(resolve)));
const ring = () => (waiting.length > 0 ? waiting.shift()() : news++);

const client = new Client(
  { name: "typescript", version: "1.0.0" },
  {
    versionNegotiation: { mode: task.mode },
    listChanged: { tools: { autoRefresh: false, debounceMs: 0, onChanged: ring } },
  },
);
const headers = { Authorization: `Bearer ${task.token}` };
const Transport = task.url.endsWith("/sse") ? SSEClientTransport : StreamableHTTPClientTransport;
const transport = new Transport(new URL(task.url), { requestInit: { headers } });
await client.connect(transport);

const tools = names((await client.listTools()).tools);
const prompts = names((await client.listPrompts()).prompts);
const resources = (await client.listResources()).resources.map((resource) => resource.uri).sort();
const quick = await client.callTool(task.quick);
const progress = [];
const options = { onprogress: (step) => progress.push(step.progress) };
const slow = await (major === "1" ? client.callTool(task.slow, undefined, options) : client.callTool(task.slow, options));
const seen = [...progress];
// Whatever rang before is in no list that follows.
news = 0;
console.log("listening");
let after = tools;
while (!after.includes(task.fresh)) {
  await nextChange();
  after = names((await client.listTools()).tools);
}
console.log(
  JSON.stringify({
    revision: transport.protocolVersion ?? transport._protocolVersion ?? client.getNegotiatedProtocolVersion?.(),
    tools,
    prompts,
    resources,
    quick: quick.content[0].text,
    slow: slow.content[0].text,
    progress: seen,
    fresh: after.filter((name) => !tools.includes(name)),
  }),
);
await client.close();
