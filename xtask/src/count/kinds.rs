//! The kinds of calls that are counted: the bytes that a client sends, and how the server behind speaks.

use super::backend::Spoken;
use super::figures::Surcharge;
use super::http::{Connection, written};

/// What tokens are signed with here.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token of `count`, signed with [`SECRET`], that expires in the year 2100: always the same bytes.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJjb3VudCIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.LO0n2ZfzKmLqw9nuQnIOUQtAIwiKyLWxcF4cEr-KULI";

/// The message of every call: 100 bytes, as in the benchmark.
pub const MESSAGE: &str =
    "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm";

/// The length of an assertion here.
const ASSERTION_LENGTH: usize = 470;

/// The key that signs assertions here.
pub const ASSERTION_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in the file of figures.
    pub name: &'static str,
    /// How the server behind speaks.
    pub spoken: Spoken,
    door: Door,
    access: Access,
}

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// `POST /tools`.
    Rest,
    /// `POST /mcp` of 2026-07-28.
    Modern,
    /// `POST /mcp` of 2025-11-25, in a session.
    Session,
    /// `POST /mcp/count` of 2026-07-28: the server alone.
    ModernServer,
    /// `POST /mcp/_views/count` of 2026-07-28.
    ModernView,
}

/// What decides whether the call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// No policy, and the server is a URL among the settings.
    Open,
    /// No policy, but the server is a manifest, as where there are policies.
    Manifest,
    /// No policy; the server has a fixed `Authorization`, as long as an assertion.
    Header,
    /// No policy; the server is shown the caller by an assertion, which is kept after the first call.
    Assertion,
    /// A rule that names the caller and the tool.
    Names,
    /// The same with a condition on two arguments.
    Condition,
}

/// All of them, in the order of the file.
pub const ALL: [Kind; 13] = [
    Kind { name: "rest", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Open },
    Kind { name: "rest-to-2026-07-28", spoken: Spoken::Modern, door: Door::Rest, access: Access::Open },
    Kind { name: "rest-to-sse", spoken: Spoken::Sse, door: Door::Rest, access: Access::Open },
    Kind { name: "rest-manifest", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Manifest },
    Kind { name: "rest-header", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Header },
    Kind { name: "rest-assertion", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Assertion },
    Kind { name: "rest-policies", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Names },
    Kind { name: "rest-policies-when", spoken: Spoken::Streamable, door: Door::Rest, access: Access::Condition },
    Kind { name: "mcp-2026-07-28", spoken: Spoken::Streamable, door: Door::Modern, access: Access::Open },
    Kind { name: "mcp-manifest", spoken: Spoken::Streamable, door: Door::Modern, access: Access::Manifest },
    Kind { name: "mcp-server", spoken: Spoken::Streamable, door: Door::ModernServer, access: Access::Manifest },
    Kind { name: "mcp-view", spoken: Spoken::Streamable, door: Door::ModernView, access: Access::Manifest },
    Kind { name: "mcp-session", spoken: Spoken::Streamable, door: Door::Session, access: Access::Open },
];

/// How many percent a kind may take more than another of the same run.
pub const SURCHARGES: [Surcharge; 4] = [
    // 1.3 and 2.6 were counted, and 2 is the aim: two processes differ by as much.
    Surcharge { kind: "rest-assertion", than: "rest-header", percent: 4 },
    Surcharge { kind: "rest-policies", than: "rest-manifest", percent: 3 },
    Surcharge { kind: "rest-policies-when", than: "rest-manifest", percent: 25 },
    // 4.4 were counted. Both go through the router, which `/mcp` does not.
    Surcharge { kind: "mcp-view", than: "mcp-server", percent: 6 },
];

impl Kind {
    /// The manifests of the server at `url` and of the policy that governs it, if there are any.
    pub fn manifests(self, url: &str) -> Option<String> {
        let head = "apiVersion: portcullis.dev/v1alpha1\nkind:";
        let server = format!("{head} McpServer\nmetadata: {{name: count}}\nspec: {{url: \"{url}\"}}\n");
        let when = match self.access {
            Access::Open => return None,
            Access::Manifest if self.door == Door::ModernView => {
                let view = format!("{head} McpView\nmetadata: {{name: count}}\nspec: {{select: [{{}}]}}\n");
                return Some(format!("{server}---\n{view}"));
            }
            Access::Manifest => return Some(server),
            Access::Header => {
                let value = "h".repeat(ASSERTION_LENGTH);
                let header = format!("headers: [{{name: Authorization, prefix: 'Bearer ', value: {value}}}]");
                return Some(server.replace("\"}\n", &format!("\", {header}}}\n")));
            }
            Access::Assertion => return Some(server.replace("\"}\n", "\", identity: {assertion: {}}}\n")),
            Access::Names => "",
            Access::Condition => ", when: \"args.message.size() <= 100 && args.n <= 3\"",
        };
        Some(format!(
            "{server}---\n{head} McpAccessPolicy\nmetadata: {{name: count}}\nspec:\n  rules:\n  \
             - {{name: count, from: [{{subject: count}}], allow: [{{tools: [echo]}}]{when}}}\n"
        ))
    }

    /// Makes ready to call, which opens the session where there is one, and gives the bytes of a call.
    ///
    /// # Errors
    /// When the gateway opens no session.
    pub fn prepare(self, connection: &mut Connection) -> anyhow::Result<Vec<u8>> {
        // The six bytes more are counted as the condition's.
        let more = if self.access == Access::Condition { r#","n":3"# } else { "" };
        let arguments = format!(r#"{{"message":"{MESSAGE}"{more}}}"#);
        let called = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{arguments}"#
        );
        Ok(match self.door {
            Door::Rest => post("/tools", "", &format!(r#"{{"method":"echo","args":{arguments}}}"#)),
            Door::Modern | Door::ModernServer | Door::ModernView => {
                let headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n";
                let meta = concat!(
                    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
                    r#""io.modelcontextprotocol/clientInfo":{"name":"count","version":"1"},"#,
                    r#""io.modelcontextprotocol/clientCapabilities":{}}"#
                );
                let path = match self.door {
                    Door::ModernServer => "/mcp/count",
                    Door::ModernView => "/mcp/_views/count",
                    _ => "/mcp",
                };
                post(path, headers, &format!("{called},{meta}}}}}"))
            }
            Door::Session => post("/mcp", &open_session(connection)?, &format!("{called}}}}}")),
        })
    }
}

/// Opens a session of 2025-11-25 and gives the headers of what is sent in it.
fn open_session(connection: &mut Connection) -> anyhow::Result<String> {
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"count","version":"1"}}"#;
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
    let answer = connection.ask(&post("/mcp", "", &body))?;
    let session = answer.header("mcp-session-id");
    let session = session.ok_or_else(|| anyhow::anyhow!("no session: {} {}", answer.first, answer.body))?;
    let headers = format!("mcp-protocol-version: 2025-11-25\r\nmcp-session-id: {session}\r\n");
    connection.ask(&post("/mcp", &headers, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#))?;
    Ok(headers)
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let usual =
        "host: gateway.example\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n";
    written(&format!("POST {path} HTTP/1.1"), &format!("{usual}authorization: Bearer {TOKEN}\r\n{headers}"), body)
}
