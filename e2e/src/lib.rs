//! The kit of the tests that cross a border: real MCP servers, faulty MCP servers, and the tools to watch them.

pub mod binary;
pub mod certificates;
pub mod cluster;
pub mod conformance;
pub mod fake_api;
pub mod fake_gateway;
mod fake_kubeconfig;
pub mod fake_secrets;
pub mod fake_tokens;
pub mod faulty;
pub mod gateway;
pub mod http;
pub mod manifests;
pub mod memory_group;
pub mod port;
pub mod real;
pub mod round_robin;
pub mod skip;
pub mod sse;
pub mod token;
pub mod wait;
