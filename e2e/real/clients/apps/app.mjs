// An App: shows the result of its tool, calls a tool of its server, and says both to the host.
import { App } from "@modelcontextprotocol/ext-apps";

const app = new App({ name: document.title, version: "1.0.0" }, {});
app.ontoolresult = async (result) => {
  document.body.textContent = result.content[0].text;
  const back = await app.callServerTool({ name: document.body.dataset.tool, arguments: { message: "second" } });
  const text = `${document.title}: ${document.body.textContent}, then ${back.content[0].text}`;
  await app.sendMessage({ role: "user", content: [{ type: "text", text }] });
};
await app.connect();
