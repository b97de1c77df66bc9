//! What callers see: the REST routes, their errors, and one log line for each request.

pub mod access_log;
pub mod app;
pub mod body;
pub mod error;
pub mod head;
pub mod mcp;
pub mod observe;
pub mod openapi;
pub mod page;
pub mod routes;
pub mod service;
pub mod status;
pub mod view;
pub mod wire;

pub use app::{App, FrontOptions};
pub use error::ApiError;
pub use service::Front;
