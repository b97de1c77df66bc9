//! One operation for each route, with every status it can give.

use serde_json::{Value, json};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, Schema};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Content, ContentBuilder, ObjectBuilder, PathItem, Ref, Required, Response, ResponseBuilder, Type,
};

/// Name of the security scheme of the header.
pub(super) const BEARER: &str = "bearer";
/// Name of the security scheme of the query.
pub(super) const QUERY_TOKEN: &str = "query_token";

const JSON: &str = "application/json";

// === the routes ===

pub(super) fn tools() -> PathItem {
    let operation = secured()
        .operation_id(Some("callTool"))
        .summary(Some("Call a tool"))
        .description(Some(
            "Calls a tool at one of the servers that offer it. Another server is tried only if the first provably \
             never got the call, or if the tool is declared read-only or idempotent. A tool that reports a failure of \
             its own (`isError`) is a success here: it has answered.",
        ))
        .parameter(shape())
        .request_body(Some(call_body()))
        .response("200", called())
        .response("400", call_refusal("The body, the query or the arguments are wrong, or there are several tokens."))
        .response("401", unauthorized())
        .response("403", forbidden())
        .response("404", call_refusal("No server offers the tool, or there is no server or view of that name."))
        .response("408", refusal("The body did not arrive completely within 30 seconds."))
        .response("413", refusal("The body is longer than `MAX_BODY_BYTES`."))
        .response("415", refusal("The Content-Type is not JSON."))
        .response("429", later("Every server that offers the tool is at its concurrency limit."))
        .response("502", call_refusal("The server answered with an error of its own, or with an invalid response."))
        .response(
            "503",
            later("No server that offers the tool can be reached, or the gateway cannot check the token yet."),
        )
        .response("504", call_refusal("The server did not answer in time. The call may have been carried out."));
    PathItem::new(HttpMethod::Post, operation)
}

pub(super) fn tools_list() -> PathItem {
    let server = query("server")
        .description(Some("Only the tools of this server, by name or by its URL as configured."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
    let namespace = query("namespace")
        .description(Some(
            "Only the tools of this namespace, under their own names. With `server`: the server of that name in it.",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
    let view = query("view")
        .description(Some(
            "The list of this view: `NAME`, or `NAMESPACE/NAME`. With `server` or `namespace`: what the view has of it, \
             without a budget.",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
    let operation = secured()
        .operation_id(Some("listTools"))
        .summary(Some("List the tools"))
        .description(Some("Answered from memory, in the order of names."))
        .parameter(server)
        .parameter(namespace)
        .parameter(view)
        .response("200", success("The tools.", "ToolList", &tool_list()))
        .response("400", refusal("There are several tokens."))
        .response("401", unauthorized())
        .response("403", forbidden())
        .response("404", refusal("There is no server or view of that name, or no server in that namespace."))
        .response("503", undecided());
    PathItem::new(HttpMethod::Get, operation)
}

pub(super) fn servers() -> PathItem {
    let operation = secured()
        .operation_id(Some("listServers"))
        .summary(Some("List the servers"))
        .description(Some("Every server with its state, answered from memory: the gateway asks no server."))
        .response("200", success("The servers.", "Servers", &Value::Null))
        .response("400", refusal("There are several tokens."))
        .response("401", unauthorized())
        .response("403", forbidden())
        .response("503", undecided());
    PathItem::new(HttpMethod::Get, operation)
}

pub(super) fn explain() -> PathItem {
    let text = |name: &str, description: &str| {
        query(name).description(Some(description)).schema(Some(ObjectBuilder::new().schema_type(Type::String)))
    };
    let operation = secured()
        .operation_id(Some("explain"))
        .summary(Some("May I use this, and why?"))
        .description(Some(
            "Which servers offer a tool, a prompt or a resource, under which names, and whether the bearer of the \
             token may use it: by which rule of which access policy, or for want of which. Exactly one of `tool`, \
             `prompt` and `resource` must be given. Rules that do not speak of the caller are only counted.",
        ))
        .parameter(text("tool", "Name of a tool, as callers or as its server know it.").example(Some("greet".into())))
        .parameter(text("prompt", "Name of a prompt, likewise."))
        .parameter(text("resource", "URI of a resource."))
        .parameter(text("server", "Only this server, by name or by its URL as configured."))
        .parameter(text("view", "As of a request through this view: `NAME`, or `NAMESPACE/NAME`."))
        .response("200", success("The explanation.", "Explanation", &Value::Null))
        .response(
            "400",
            refusal("There is not exactly one item, the query names somebody else, or there are several tokens."),
        )
        .response("401", unauthorized())
        .response("403", forbidden())
        .response("404", refusal("No server offers the item, or there is no server of that name."))
        .response(
            "503",
            not_yet(
                "Too many explanations are under way, servers are connected to for the first time, or the gateway \
                 cannot check the token yet.",
            ),
        );
    PathItem::new(HttpMethod::Get, operation)
}

pub(super) fn health() -> PathItem {
    let open = SecurityRequirement::default();
    let operation = secured()
        .security(open)
        .operation_id(Some("health"))
        .summary(Some("Is the gateway alive?"))
        .description(Some(
            "Always 200 while the process lives. Without a token, servers go by their names; with a valid one, by \
             their URLs as configured, and the answer lists the problems of the configuration.",
        ))
        .response("200", success("The gateway is alive.", "Health", &Value::Null));
    PathItem::new(HttpMethod::Get, operation)
}

// === parts ===

fn secured() -> OperationBuilder {
    let requirement = |name: &str| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    Operation::builder().securities(Some([requirement(BEARER), requirement(QUERY_TOKEN)]))
}

fn query(name: &str) -> ParameterBuilder {
    Parameter::builder().name(name).parameter_in(ParameterIn::Query).required(Required::False)
}

fn shape() -> ParameterBuilder {
    query("shape")
        .description(Some(
            "`result`: the whole result, as the server sent it. `value`: its content without the wrapping. Text that \
             is JSON stands for itself, other text is a JSON string, anything else is its JSON object; a single plain \
             text is given bare, everything else in an array.",
        ))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .enum_values(Some(["result", "value"]))
                .default(Some("result".into())),
        ))
}

fn call_body() -> RequestBody {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ToolCall")))
        .example(Some(json!({"method": "greet", "args": {"name": "world"}})));
    RequestBodyBuilder::new().content(JSON, content.build()).required(Some(Required::True)).build()
}

fn called() -> Response {
    let value = AnyOfBuilder::new()
        .item(Ref::from_schema_name("ToolResult"))
        .item(ObjectBuilder::new().schema_type(Type::String).description(Some("With `?shape=value`.")))
        .item(ArrayBuilder::new().description(Some("With `?shape=value`.")));
    let content = ContentBuilder::new()
        .schema(Some(Schema::AnyOf(value.build())))
        .example(Some(json!({"content": [{"type": "text", "text": "Hello, world!"}]})));
    let response = about(ResponseBuilder::new().description("The tool has answered."));
    about_call(response).content(JSON, content.build()).build()
}

fn success(description: &str, body: &str, example: &Value) -> Response {
    let example = Some(example.clone()).filter(|example| !example.is_null());
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(body))).example(example);
    about(ResponseBuilder::new().description(description)).content(JSON, content.build()).build()
}

fn tool_list() -> Value {
    json!({"tools": [{
        "name": "greet",
        "description": "Greets somebody by name.",
        "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "available_servers": ["http://127.0.0.1:9000/sse"],
        "server_count": 1,
    }]})
}

/// An answer that is not a success.
fn refused(description: &str) -> ResponseBuilder {
    let content = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    about(ResponseBuilder::new().description(description)).content(JSON, content)
}

fn refusal(description: &str) -> Response {
    refused(description).build()
}

/// A refusal that may come from a server: then it says from which.
fn call_refusal(description: &str) -> Response {
    about_call(refused(description)).build()
}

fn unauthorized() -> Response {
    let scheme = header("How to authenticate (RFC 6750).", Type::String);
    refused("The token is missing, invalid or expired.").header("WWW-Authenticate", scheme).build()
}

fn forbidden() -> Response {
    let scopes = header("The scopes that a token must have (RFC 6750).", Type::String);
    refused("The token lacks a scope of `REQUIRED_SCOPES`.").header("WWW-Authenticate", scopes).build()
}

fn undecided() -> Response {
    not_yet("The keys of the token's issuer are not known yet, or the cluster cannot check the token at the moment.")
}

fn not_yet(description: &str) -> Response {
    let pause = header("Seconds to wait before trying again.", Type::Integer);
    refused(description).header("Retry-After", pause).build()
}

fn later(description: &str) -> Response {
    let pause = header("Seconds to wait before trying again.", Type::Integer);
    about_call(refused(description)).header("Retry-After", pause).build()
}

fn about(response: ResponseBuilder) -> ResponseBuilder {
    response.header_ref("X-Request-Id", Ref::new("#/components/headers/RequestId"))
}

fn about_call(response: ResponseBuilder) -> ResponseBuilder {
    response
        .header("X-Portcullis-Server", header("The server that answered, or the last one tried.", Type::String))
        .header("X-Portcullis-Attempts", header("Number of servers tried.", Type::Integer))
}

pub(super) fn request_id() -> Header {
    header("Id of the request, here and in the log.", Type::String)
}

fn header(description: &str, kind: Type) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind);
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}
