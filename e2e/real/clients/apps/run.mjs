// MCP Apps, rendered by their own SDK in a browser without a window. Run it in the folder that holds node_modules.
//
//   node run.mjs FILE page TITLE TOOL     writes the page of an App that calls TOOL back
//   node run.mjs FILE host URL TOKEN      renders the Apps of an MCP endpoint; writes what the host saw, as JSON
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const modules = join(process.cwd(), "node_modules");
const { build } = createRequire(`${process.cwd()}/`)("esbuild");

const BROWSER = process.env.CHROMIUM ?? "chromium";
const LIMIT_MS = 60_000;

async function bundle(name) {
  const entryPoints = [join(import.meta.dirname, name)];
  const options = { bundle: true, format: "esm", minify: true, target: "chrome120", write: false, nodePaths: [modules] };
  const { outputFiles: [file] } = await build({ entryPoints, ...options });
  return file.text.replaceAll("</script", "<\\/script");
}

async function page(title, tool) {
  const script = await bundle("app.mjs");
  return `<!doctype html><title>${title}</title><body data-tool="${tool}"><script type="module">${script}</script>`;
}

async function host(url, token) {
  const html = `<!doctype html><title>host</title><body><script type="module">${await bundle("host.mjs")}</script>`;
  let tell;
  let last = "nothing";
  const outcome = new Promise((resolve) => (tell = resolve));
  const server = createServer(async (request, response) => {
    if (request.url === "/outcome") {
      let text = "";
      for await (const piece of request) text += piece;
      tell(text);
      response.end();
    } else if (request.url.startsWith("/step/")) {
      last = decodeURIComponent(request.url.slice("/step/".length));
      response.end();
    } else if (request.url === "/settings") {
      response.end(JSON.stringify({ url, token }));
    } else {
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(html);
    }
  });
  await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
  const profile = await mkdtemp(join(tmpdir(), "apps-"));
  const options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  const address = `http://127.0.0.1:${server.address().port}/`;
  const browser = execFile(BROWSER, [...options, `--user-data-dir=${profile}`, address], () => {});
  const late = setTimeout(() => tell(JSON.stringify({ error: `too late; the last step was: ${last}` })), LIMIT_MS);
  try {
    return await outcome;
  } finally {
    clearTimeout(late);
    const ended = new Promise((resolve) => browser.once("exit", resolve));
    browser.kill("SIGKILL");
    await ended;
    server.closeAllConnections();
    server.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

const [file, what, ...rest] = process.argv.slice(2);
await writeFile(file, await (what === "page" ? page(...rest) : host(...rest)));
