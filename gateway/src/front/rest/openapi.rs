//! The OpenAPI 3.1 document of the REST API. docs/openapi.json says the same, and a test compares them.
//!
//! Pure. The bodies that are written from types take their schemas from those types.

mod routes;
mod schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use utoipa::ToSchema;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathsBuilder, RefOr, Schema,
    ServerBuilder,
};

use crate::explain::answer::ExplainAnswer;
use crate::front::rest::servers::{HealthView, ServersView};
use schemas::{ErrorBody, ToolCall, ToolList, ToolResult};

/// The description of all routes.
const DESCRIPTION: &str = "\
Every tool of every MCP server behind the gateway, through one address and with one token.\n\n\
Every answer has the header `X-Request-Id`: the caller's own if it sends one of 1 to 128 visible ASCII characters, \
else a new one. The log line of the request has the same id.\n\n\
Every answer that is not a success has the body `{\"error\":{\"message\",\"code\"}}`, where `code` is the HTTP status. \
That holds for paths that do not exist (404) and methods that a path does not take (405) too.";

/// The document.
pub fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Portcullis REST API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build()));
    let paths = PathsBuilder::new()
        .path("/tools", routes::tools())
        .path("/tools/list", routes::tools_list())
        .path("/servers", routes::servers())
        .path("/explain", routes::explain())
        .path("/health", routes::health());
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/").build()]))
        .paths(paths)
        .components(Some(components()))
        .build()
}

/// The document as it is served: compact, made once.
pub(crate) fn served() -> Bytes {
    static SERVED: OnceLock<Bytes> = OnceLock::new();
    let write = || serde_json::to_vec(&document()).expect("the document holds only strings, numbers and lists");
    SERVED.get_or_init(|| write().into()).clone()
}

fn components() -> Components {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A JWT in the header `Authorization: Bearer TOKEN`. It must expire (`exp`)."));
    let mut query = ApiKeyValue::new("token");
    query.description =
        Some("The same JWT in the query, unless `ALLOW_QUERY_TOKEN` is false. Never both at once.".into());
    let mut schemas = Vec::new();
    add::<ToolCall>(&mut schemas);
    add::<ToolResult>(&mut schemas);
    add::<ToolList>(&mut schemas);
    add::<ServersView<'_>>(&mut schemas);
    add::<ExplainAnswer>(&mut schemas);
    add::<HealthView>(&mut schemas);
    add::<ErrorBody>(&mut schemas);
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .header("RequestId", routes::request_id())
        .security_scheme(routes::BEARER, SecurityScheme::Http(bearer.build()))
        .security_scheme(routes::QUERY_TOKEN, SecurityScheme::ApiKey(ApiKey::Query(query)))
        .build()
}

/// A schema and those it refers to.
fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}
