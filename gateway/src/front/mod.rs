//! Serves callers: the routes of REST and of `/mcp`, their errors, and one log line for each request.

pub mod http;
pub mod mcp;
pub(crate) mod request;
pub mod rest;
pub(crate) mod routes;
pub(crate) mod service;

pub(crate) use crate::front::request::app::{App, FrontOptions};
pub(crate) use crate::front::request::connection::Front;
