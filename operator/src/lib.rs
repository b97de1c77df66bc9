//! Reconciles McpServers into the ConfigMaps that the gateway watches, and tells the truth in their status.
