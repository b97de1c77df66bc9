//! What needs a real API server: the definition of McpServer, and the operator.

mod definition;
