//! The tools by which agents find tools that are not listed. Pure.

use std::sync::{Arc, LazyLock};

use super::item::{Item, number_of};

/// Finds tools.
pub(crate) const SEARCH_TOOLS: &str = "search_tools";

/// Describes one tool.
pub(crate) const DESCRIBE_TOOL: &str = "describe_tool";

/// Calls a tool.
pub(crate) const CALL_TOOL: &str = "call_tool";

/// All of them.
pub(crate) const NAMES: [&str; 3] = [SEARCH_TOOLS, DESCRIBE_TOOL, CALL_TOOL];

/// The definitions, as members after the name, sorted by name.
const DEFINITIONS: [(&str, &str); 3] = [
    (
        CALL_TOOL,
        r#","title":"Call a tool","description":"Calls a tool that search_tools has found. See describe_tool for its arguments.","inputSchema":{"type":"object","properties":{"name":{"type":"string","description":"Name of the tool"},"arguments":{"type":"object","description":"Arguments of the tool"}},"required":["name"]}"#,
    ),
    (
        DESCRIBE_TOOL,
        r#","title":"Describe a tool","description":"Returns the whole definition of a tool: what it does and which arguments it takes.","inputSchema":{"type":"object","properties":{"name":{"type":"string","description":"Name of the tool"}},"required":["name"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}"#,
    ),
    (
        SEARCH_TOOLS,
        r#","title":"Search tools","description":"Searches all tools, most of which are not listed. Say in a few words what you want to do.","inputSchema":{"type":"object","properties":{"query":{"type":"string","description":"What the tool should do"},"limit":{"type":"integer","minimum":1,"maximum":50,"default":8,"description":"How many tools to return"}},"required":["query"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}"#,
    ),
];

/// The definitions under their names, sorted by name.
pub(crate) fn search_tools() -> &'static [(Arc<str>, Arc<Item>)] {
    static TOOLS: LazyLock<Vec<(Arc<str>, Arc<Item>)>> = LazyLock::new(|| {
        let item = |(name, members): (&str, &str)| {
            let item = Item { members: members.into(), shown: number_of(members), ..Item::unlisted(name) };
            (item.name.clone(), Arc::new(item))
        };
        DEFINITIONS.into_iter().map(item).collect()
    });
    &TOOLS
}
