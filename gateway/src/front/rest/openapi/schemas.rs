//! Bodies that pass through the gateway as text: they have no types elsewhere, so their shapes stand here.

use crate::front::request::missing::MissingServer;
use serde_json::Value;
use utoipa::ToSchema;

/// One call of a tool. The gateway ignores members that are not listed here.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used; the body is read without being decoded")]
pub(super) struct ToolCall {
    /// Name of the tool, as `GET /tools/list` has it.
    #[schema(min_length = 1, example = "greet")]
    method: String,
    /// The arguments, which go to the server byte for byte; null counts as absent.
    #[schema(value_type = Option<Object>, default = json!({}), example = json!({"name": "world"}))]
    args: Option<Value>,
    /// The server to try first, by name or by its URL as configured. A tool of its own of that name comes before another
    /// server's.
    server: Option<String>,
    /// The view whose tool it is: `NAME`, or `NAMESPACE/NAME`.
    view: Option<String>,
}

/// The answer of the tool, byte for byte as its server sent it: an MCP `CallToolResult`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used; results are passed on as text")]
pub(super) struct ToolResult {
    /// Texts, images, sounds, links and resources, as MCP defines them.
    #[schema(value_type = Vec<Object>, required = false)]
    content: Vec<Value>,
    /// The tool itself failed; the reason is in `content`.
    #[schema(rename = "isError", required = false)]
    is_error: bool,
    /// The answer as data, for tools that have an output schema.
    #[schema(rename = "structuredContent", value_type = Option<Value>)]
    structured_content: Option<Value>,
}

/// Every tool that can be called, sorted by name.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used; the list is written from texts")]
pub(super) struct ToolList {
    /// The tools.
    tools: Vec<ListedTool>,
    /// Servers whose tools are missing, or not all there, at most 32. Absent if there are none.
    #[schema(nullable = false)]
    missing_servers: Option<Vec<MissingServer>>,
}

/// One tool, as its server describes it; members that are not listed here are kept too.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used; the list is written from texts")]
pub(super) struct ListedTool {
    /// The name to call it by.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    name: String,
    /// Name for people.
    #[schema(value_type = Option<Value>)]
    title: Option<Value>,
    /// Its description.
    #[schema(value_type = Option<Value>)]
    description: Option<Value>,
    /// JSON Schema of the arguments.
    #[schema(rename = "inputSchema", value_type = Object)]
    input_schema: Value,
    /// JSON Schema of `structuredContent`.
    #[schema(rename = "outputSchema", value_type = Option<Value>)]
    output_schema: Option<Value>,
    /// Hints, such as `readOnlyHint` and `idempotentHint`.
    #[schema(value_type = Option<Object>, nullable = false)]
    annotations: Option<Value>,
    /// The servers that offer it, by name, or by URL without the query where they were configured as URLs. Absent with `?server=`.
    #[schema(nullable = false)]
    available_servers: Option<Vec<String>>,
    /// Number of these servers. Absent with `?server=`.
    #[schema(nullable = false, minimum = 1)]
    server_count: Option<u32>,
}

/// The body of every answer that is not a success.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used; errors write themselves")]
pub(super) struct ErrorBody {
    /// The error.
    error: ErrorInBody,
}

/// The error.
#[derive(ToSchema)]
#[schema(as = Error)]
#[expect(dead_code, reason = "only its schema is used; errors write themselves")]
pub(super) struct ErrorInBody {
    /// One sentence that says what to do.
    message: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    code: u16,
    /// The server's JSON-RPC error code, if the error is the server's.
    #[schema(nullable = false)]
    rpc_code: Option<i64>,
    /// The `data` of that error as the server wrote it, up to 64 KiB: with -32042 it says which address the user must visit
    /// first.
    #[schema(value_type = Option<Value>)]
    rpc_data: Option<Value>,
}
